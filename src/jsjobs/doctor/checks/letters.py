"""Check the dead-letter messages on their way to Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.api.consumers import find_consumer

_SOON = 2
"""The multiple of `ack_wait` within which a router that can reach Postgres has surely stored a letter."""
_START = "`jsjobs router`, or a worker with DATABASE_URL set"


async def waiting(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield a finding if letters have waited for longer than a router takes."""
    info = deployment.streams.get(deployment.names.dead_stream)
    if info is None or not info.state.messages:
        return
    count = info.state.messages
    waited = (info.ts - (info.state.first_ts or info.ts)).total_seconds()
    has_router = await _has_router(deployment)
    is_late = waited >= _SOON * deployment.config.ack_wait
    if has_router and not is_late:
        return
    why = "a router is running, but cannot store them in Postgres" if has_router else "no router is running"
    remedy = (
        "check that Postgres is up and migrated (below, and in the router's log)"
        if has_router
        else f"start one: {_START}"
    )
    severity = Severity.PROBLEM if is_late else Severity.WARNING
    what = f"dead letters are pending: {count:,}, the first for {waited:,.0f} s: {why}"
    yield Finding("letters", severity, what, info.config.name, remedy)


async def router(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield a finding if no router would take a letter."""
    info = deployment.streams.get(deployment.names.dead_stream)
    if info is not None and not info.state.messages and not await _has_router(deployment):
        what = "no router is running: dead letters would be pending, and nobody would finish a change of shards"
        yield Finding("router", Severity.NOTE, what, info.config.name, f"start one: {_START}")


async def _has_router(deployment: Deployment) -> bool:
    names = deployment.names
    consumer = await find_consumer(deployment.connection, names.dead_stream, names.router)
    return bool(consumer and consumer.push_bound)
