"""Dead jobs on their way to Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.api import find, parse_time, server_time

_SOON = 2
"""Times `ack_wait` in which a router that can reach Postgres has surely brought a letter there."""
_START = "`jsjobs router`, or a worker with DATABASE_URL set"


async def waiting(patient: Patient) -> AsyncIterator[Finding]:
    """Letters that have waited for longer than a router takes."""
    info = patient.streams.get(patient.names.dead_stream)
    if info is None or not info["state"]["messages"]:
        return
    count = info["state"]["messages"]
    waited = (server_time(info) - parse_time(info["state"]["first_ts"])).total_seconds()
    has_router = await _has_router(patient)
    is_late = waited >= _SOON * patient.config.ack_wait
    if has_router and not is_late:
        return
    why = "a router is there, but cannot bring them into Postgres" if has_router else "no router is there"
    remedy = (
        "see that Postgres is up and migrated (below, and in the router's log)"
        if has_router
        else f"start one: {_START}"
    )
    severity = Severity.PROBLEM if is_late else Severity.WARNING
    what = f"letters wait: {count:,}, the first for {waited:,.0f} s: {why}"
    yield Finding("letters", severity, what, info["config"]["name"], remedy)


async def router(patient: Patient) -> AsyncIterator[Finding]:
    """Nobody who would take a letter."""
    info = patient.streams.get(patient.names.dead_stream)
    if info is not None and not info["state"]["messages"] and not await _has_router(patient):
        what = "no router is there: what dies would wait, and so would a change of shards that nobody finishes"
        yield Finding("router", Severity.NOTE, what, info["config"]["name"], f"start one: {_START}")


async def _has_router(patient: Patient) -> bool:
    names = patient.names
    consumer = await find(patient.connection, f"CONSUMER.INFO.{names.dead_stream}.{names.router}")
    return bool(consumer and consumer.get("push_bound"))
