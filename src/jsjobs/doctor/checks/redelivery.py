"""Check for jobs that are delivered again and again, and for jobs that the server gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.monitoring.backlog import given_up
from jsjobs.jetstream.protocol.job_ids import plain_id
from jsjobs.jetstream.topology.generations import Shards, live_shards

_NEAR = 0.5
"""The fraction of `max_deliver` from which a job counts as near it."""
_SHOWN = 5
_AGAIN = 1.0
"""Seconds between two looks: a job that has just ended leaves its queue a moment later."""


async def redelivered(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the jobs in flight that were delivered nearly as often as they may be."""
    for shard, info in deployment.shards.items():
        # One job is delivered at a time, so all deliveries since the last settled one are of this job.
        times = info.delivered.consumer_seq - info.ack_floor.consumer_seq
        most = info.config.max_deliver
        is_near = info.num_ack_pending and most > 0 and times >= _NEAR * most
        # A job that was given up leaves the count as it is; the next check reports it.
        if is_near and not await given_up(deployment.connection, deployment.names.stream(shard.priority), info, most=1):
            job_id = plain_id(shard.queue, info.delivered.stream_seq)
            what = f"{job_id} was delivered {times:,} times; at {most:,} the server gives it up"
            remedy = (
                f"`jsjobs status {job_id}` tells why; `jsjobs cancel {job_id}` ends it; or raise JSJOBS_MAX_DELIVER"
            )
            yield Finding("redelivery", Severity.WARNING, what, shard.consumer, remedy)


async def zombies(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the jobs that the server gave up and that no router has recorded as dead."""
    before = await _given_up(deployment, deployment.shards)
    if not before:
        return
    await asyncio.sleep(_AGAIN)
    shards = await live_shards(deployment.connection, deployment.names)
    for name, sequences in (await _given_up(deployment, shards)).items():
        left = sequences & before.get(name, set())
        if left:
            priority = name.partition("-")[0]
            ids = ", ".join(f"{priority}-{sequence}" for sequence in sorted(left)[:_SHOWN])
            more = "" if len(left) <= _SHOWN else " and more"
            what = f"the server gave up jobs that are still in the queue: {ids}{more}"
            remedy = "a router makes them dead letters within minutes: `jsjobs router`, or a worker with a database"
            yield Finding("given_up", Severity.PROBLEM, what, name, remedy)


async def _given_up(deployment: Deployment, shards: Shards) -> dict[str, set[int]]:
    found = {}
    for shard, info in shards.items():
        stream = deployment.names.stream(shard.priority)
        if sequences := await given_up(deployment.connection, stream, info, most=_SHOWN + 1):
            found[shard.consumer] = set(sequences)
    return found
