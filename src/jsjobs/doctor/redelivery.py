"""Jobs that come back again and again, and those that the server gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.generation_consumers import Infos
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.given_up import given_up
from jsjobs.jetstream.ids import plain_id

_NEAR = 0.5
"""Part of `max_deliver` from which a job is said to be near it."""
_SHOWN = 5
_AGAIN = 1.0
"""Seconds between two looks: what has just ended leaves its queue a moment later."""


async def redelivered(patient: Patient) -> AsyncIterator[Finding]:
    """Jobs in flight that were delivered nearly as often as they may be."""
    for shard, info in patient.shards.items():
        # One at a time is delivered, so all deliveries since the last that was settled are of this job.
        times = info["delivered"]["consumer_seq"] - info["ack_floor"]["consumer_seq"]
        most = info["config"].get("max_deliver", -1)
        is_near = info["num_ack_pending"] and most > 0 and times >= _NEAR * most
        # One that was given up leaves the count standing; that is for the next check to tell.
        if is_near and not await given_up(patient.connection, patient.names.stream(shard.priority), info, most=1):
            job_id = plain_id(shard.priority, info["delivered"]["stream_seq"])
            what = f"{job_id} was delivered {times:,} times; at {most:,} the server gives it up"
            remedy = f"`jsjobs status {job_id}` tells why; `jsjobs cancel {job_id}` ends it, raise JSJOBS_MAX_DELIVER"
            yield Finding("redelivery", Severity.WARNING, what, shard.consumer, remedy)


async def zombies(patient: Patient) -> AsyncIterator[Finding]:
    """Messages that the server gave up and that nobody has buried."""
    before = await _given_up(patient, patient.shards)
    if not before:
        return
    await asyncio.sleep(_AGAIN)
    shards = await live_shards(patient.connection, patient.names)
    for name, sequences in (await _given_up(patient, shards)).items():
        left = sequences & before.get(name, set())
        if left:
            priority = name.partition("-")[0]
            ids = ", ".join(f"{priority}-{sequence}" for sequence in sorted(left)[:_SHOWN])
            more = "" if len(left) <= _SHOWN else " and more"
            what = f"the server gave up jobs that are still in the queue: {ids}{more}"
            remedy = "a router buries them within some minutes: `jsjobs router`, or a worker with a database"
            yield Finding("given_up", Severity.PROBLEM, what, name, remedy)


async def _given_up(patient: Patient, shards: Infos) -> dict[str, set[int]]:
    found = {}
    for shard, info in shards.items():
        stream = patient.names.stream(shard.priority)
        if sequences := await given_up(patient.connection, stream, info, most=_SHOWN + 1):
            found[shard.consumer] = set(sequences)
    return found
