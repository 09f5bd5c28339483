"""Run all checks: first of servers, then of streams, then of shards; the first decide which others make sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from jsjobs.doctor.checks import (
    database,
    environment,
    letters,
    redelivery,
    schedules,
    servers,
    shards,
    storage,
    streams,
    topology,
)
from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.errors import ServerTooOld, without_secrets
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import utc_now
from jsjobs.settings import Config

WITHIN = 30.0
"""Seconds that one check may take."""


class Check(NamedTuple):
    """One check that the doctor runs."""

    name: str
    look: Callable[[Deployment], AsyncIterator[Finding]]
    good: str
    """The message where the check finds nothing; empty: the check says so itself."""


OF_SERVERS = (
    Check("servers", servers.servers, ""),
    Check("rights", servers.rights, ""),
    Check("clock", servers.clock, ""),
    Check("max_payload", servers.max_payload, "the largest job and its dead letter fit into a message"),
    Check("limits", servers.limits, ""),
    Check("storage", storage.room, ""),
    Check("sync", servers.sync, ""),
)
OF_STREAMS = (
    Check("sync", servers.one_copy, ""),
    Check("copies", streams.copies, "every stream has a leader and all of its copies"),
    Check("types", streams.types, "few types of jobs wait in each queue"),
    Check("capacity", streams.room, "the queues have room"),
    Check("consumers", streams.consumers, "the streams have few consumers"),
    Check("duplicates", streams.duplicates, "dedupe keys are remembered for long enough"),
)
OF_SHARDS = (
    Check("declared", topology.declared, "streams and consumers are as declared"),
    Check("change", topology.unfinished_changes, "no change of a shard count is under way"),
    Check("paused", shards.paused, "no priority is paused"),
    Check("workers", shards.workers, "workers listen to every shard"),
    Check("stalled", shards.stalled, "every shard with jobs and workers delivers"),
    Check("held", shards.held, "no job blocks others of its shard for long"),
    Check("redelivery", redelivery.redelivered, "no job is delivered again and again"),
    Check("given_up", redelivery.zombies, "no queue holds a job that the server gave up"),
    Check("letters", letters.waiting, "no dead letters are pending"),
    Check("router", letters.router, "a router is running"),
    Check("due", schedules.stalled, "queues take due jobs"),
)


async def examine(
    config: Config,
    *,
    environ: Mapping[str, str],
    known_variables: Collection[str],
    now: Callable[[], datetime] = utc_now,
) -> list[Finding]:
    """Check the whole deployment; whatever cannot be checked is a finding too.

    Args:
        config: The settings: the servers, the namespace, and the declared topology.
        environ: The environment.
        known_variables: The names of variables that are read, beside those of the settings.
        now: This machine's clock.

    Raises:
        JobError: `Validation`, if a setting is invalid.
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
            found += await _look_at_nats(Deployment(config, names, connection, now))
        finally:
            await connection.close()
    return [*found, *[finding async for finding in database.look(config)]]


def _unreachable(config: Config, error: JobError) -> Finding:
    remedy = "start it, or one with `jsjobs dev`; or set NATS_URL, and the credentials that it asks for"
    if isinstance(error, ServerTooOld):
        remedy = "upgrade every server to 2.15 or later"
    return Finding("servers", Severity.PROBLEM, error.message, without_secrets(config.nats_url), remedy)


async def _look_at_nats(deployment: Deployment) -> list[Finding]:
    await deployment.read_servers()
    found = await _run_all(OF_SERVERS, deployment)
    if not deployment.has_jetstream or not deployment.may_look:
        return found
    await deployment.read_streams()
    if not deployment.streams and not deployment.silent:
        where, what = f"namespace {deployment.names.namespace}", "there are no streams"
        return [*found, Finding("declared", Severity.PROBLEM, what, where, "jsjobs streams apply")]
    found += await _run_all(OF_STREAMS, deployment)
    if deployment.silent or not deployment.may_see_shards:
        return found
    try:
        await deployment.read_shards()
    except JobError as error:
        return [*found, _unseen("workers", error.message)]
    return found + await _run_all(OF_SHARDS, deployment)


async def _run_all(checks: tuple[Check, ...], deployment: Deployment) -> list[Finding]:
    found = await asyncio.gather(*(_run(check, deployment) for check in checks))
    return [finding for findings in found for finding in findings]


async def _run(check: Check, deployment: Deployment) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(WITHIN):
            async for finding in check.look(deployment):
                found.append(finding)  # noqa: PERF401 - findings before an error are kept
    except JobError as error:
        found.append(_unseen(check.name, error.message))
    except TimeoutError:
        found.append(_unseen(check.name, f"no answer within {WITHIN:g} s"))
    if not found and check.good:
        found.append(Finding(check.name, Severity.OK, check.good, ""))
    return found


def _unseen(name: str, why: str) -> Finding:
    remedy = "fix what is found above, then run `jsjobs doctor` again"
    return Finding(name, Severity.WARNING, f"this could not be checked: {why}", "", remedy)
