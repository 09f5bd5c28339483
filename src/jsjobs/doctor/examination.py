"""All checks, those of servers before those of streams and of shards: what one finds tells which others make sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from jsjobs.doctor import (
    account,
    capacity,
    copies,
    database,
    drift,
    durability,
    environment,
    letters,
    reach,
    redelivery,
    schedules,
    shards,
    storage,
)
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.connect import connect
from jsjobs.jetstream.errors import ServerTooOld, without_secrets
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import utc_now
from jsjobs.settings import Config

_WITHIN = 30.0
"""Seconds that one check may take."""


class _Check(NamedTuple):
    name: str
    look: Callable[[Patient], AsyncIterator[Finding]]
    good: str
    """What to say where it finds nothing; empty: it says so itself."""


_OF_SERVERS = (
    _Check("servers", reach.servers, ""),
    _Check("rights", reach.rights, ""),
    _Check("clock", reach.clock, ""),
    _Check("max_payload", reach.max_payload, "the largest job and its letter fit into a message"),
    _Check("limits", account.limits, ""),
    _Check("storage", storage.room, ""),
    _Check("sync", durability.sync, ""),
)
_OF_STREAMS = (
    _Check("sync", durability.one_copy, ""),
    _Check("copies", copies.copies, "every stream has a leader and all of its copies"),
    _Check("types", capacity.types, "few types of jobs wait in each queue"),
    _Check("capacity", capacity.room, "the queues have room"),
    _Check("consumers", capacity.consumers, "the streams have few consumers"),
    _Check("duplicates", capacity.duplicates, "dedupe keys are remembered for long enough"),
)
_OF_SHARDS = (
    _Check("declared", drift.declared, "streams and consumers are as declared"),
    _Check("change", drift.unfinished_changes, "no change of a shard count is under way"),
    _Check("paused", shards.paused, "no priority is paused"),
    _Check("workers", shards.workers, "workers listen to every shard"),
    _Check("stalled", shards.stalled, "every shard with jobs and workers delivers"),
    _Check("held", shards.held, "no job holds up others of its shard for long"),
    _Check("redelivery", redelivery.redelivered, "no job is delivered again and again"),
    _Check("given_up", redelivery.zombies, "no queue holds a job that the server gave up"),
    _Check("letters", letters.waiting, "no letter waits"),
    _Check("router", letters.router, "a router takes letters"),
    _Check("due", schedules.stalled, "queues take what is due"),
)


async def examine(
    config: Config,
    *,
    environ: Mapping[str, str],
    known_variables: Collection[str],
    now: Callable[[], datetime] = utc_now,
) -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding too.

    Args:
        config: Which servers, which namespace, and what is declared.
        environ: The environment.
        known_variables: Names of variables that mean something beside the settings.
        now: This machine's clock.

    Raises:
        JobError: `Validation`, if a setting cannot be used.
    """
    names = Names(config.namespace)
    found = list(environment.unknown_variables(environ, known_variables))
    try:
        connection = await connect(config, name="jsjobs doctor")
    except JobError as error:
        if error.reason is Reason.VALIDATION:
            raise
        found.append(_unreachable(config, error))
    else:
        try:
            found += await _look_at_nats(Patient(config, names, connection, now))
        finally:
            await connection.close()
    return [*found, *[finding async for finding in database.look(config)]]


def _unreachable(config: Config, error: JobError) -> Finding:
    remedy = "start it, or one with `jsjobs dev`; or set NATS_URL, and the credentials that it asks for"
    if isinstance(error, ServerTooOld):
        remedy = "upgrade every server to 2.15 or later"
    return Finding("servers", Severity.PROBLEM, error.message, without_secrets(config.nats_url), remedy)


async def _look_at_nats(patient: Patient) -> list[Finding]:
    await patient.read_servers()
    found = await _run_all(_OF_SERVERS, patient)
    if not patient.has_jetstream or not patient.may_look:
        return found
    await patient.read_streams()
    if not patient.streams and not patient.silent:
        where, what = f"namespace {patient.names.namespace}", "there are no streams"
        return [*found, Finding("declared", Severity.PROBLEM, what, where, "jsjobs streams apply")]
    found += await _run_all(_OF_STREAMS, patient)
    if patient.silent or not patient.may_see_shards:
        return found
    try:
        await patient.read_shards()
    except JobError as error:
        return [*found, _unseen("workers", error.message)]
    return found + await _run_all(_OF_SHARDS, patient)


async def _run_all(checks: tuple[_Check, ...], patient: Patient) -> list[Finding]:
    found = await asyncio.gather(*(_run(check, patient) for check in checks))
    return [finding for findings in found for finding in findings]


async def _run(check: _Check, patient: Patient) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(_WITHIN):
            async for finding in check.look(patient):
                found.append(finding)  # noqa: PERF401 - what was found before an error is kept
    except JobError as error:
        found.append(_unseen(check.name, error.message))
    except TimeoutError:
        found.append(_unseen(check.name, f"no answer within {_WITHIN:g} s"))
    if not found and check.good:
        found.append(Finding(check.name, Severity.OK, check.good, ""))
    return found


def _unseen(name: str, why: str) -> Finding:
    remedy = "mend what is found above, then run `jsjobs doctor` again"
    return Finding(name, Severity.WARNING, f"this could not be looked at: {why}", "", remedy)
