"""Shards in which jobs wait for somebody to do something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.api import parse_time, server_time
from jsjobs.jetstream.oldest import oldest_waiting
from jsjobs.jetstream.overview import ShardLook
from jsjobs.jetstream.shard_consumers import UNTIL_RESUMED
from jsjobs.model.times import rfc3339


async def paused(patient: Patient) -> AsyncIterator[Finding]:
    """Pauses, of whole priorities and of single shards."""
    for look in patient.overview.priorities if patient.overview else ():
        held = [shard for shard in look.running_shards if shard.paused]
        if not held:
            continue
        ends = {shard.paused_until for shard in held}
        end = max((end for end in ends if end is not None), default=UNTIL_RESUMED)
        until = "until somebody resumes it" if end == UNTIL_RESUMED else f"until {rfc3339(end)}"
        some = (
            ""
            if len(held) == len(look.running_shards)
            else f", but only {len(held)} of {len(look.running_shards)} shards"
        )
        behind = sum(shard.waiting for shard in held)
        severity = Severity.WARNING if behind or some else Severity.NOTE
        what = f"it is paused {until}{some}; jobs waiting: {behind:,}"
        yield Finding("paused", severity, what, look.priority, f"if that is not meant: `jsjobs resume {look.priority}`")


async def workers(patient: Patient) -> AsyncIterator[Finding]:
    """Shards that nobody listens to."""
    alone = [shard for shard in patient.looks if not shard.has_worker]
    if not alone:
        return
    remedy = (
        "start workers: `jsjobs worker module:attr`; if some run, look whether they are ready and of this namespace"
    )
    if len(alone) == len(patient.looks) and not any(shard.waiting + shard.running for shard in alone):
        yield Finding("workers", Severity.NOTE, "no worker is there; no job waits for one", "", remedy)
        return
    oldest = await _oldest(patient, alone)
    for shard in alone:
        if busy := shard.waiting + shard.running:
            waited = oldest.get(shard, 0.0)
            severity = Severity.PROBLEM if waited > patient.config.ack_wait else Severity.WARNING
            what = f"no worker is there, and jobs wait: {busy:,}, the first for {waited:,.0f} s"
            yield Finding("workers", severity, what, shard.name, remedy)
    idle = [shard.name for shard in alone if not shard.waiting + shard.running]
    if idle and len(alone) < len(patient.looks):
        yield Finding("workers", Severity.WARNING, "no worker listens", ", ".join(idle), remedy)


async def stalled(patient: Patient) -> AsyncIterator[Finding]:
    """Shards with workers and jobs, in which nothing is delivered."""
    idle = [shard for shard in patient.looks if shard.waiting and shard.has_worker and not shard.running]
    idle = [shard for shard in idle if not shard.paused and not shard.is_busy and _is_quiet(patient, shard)]
    for shard, waited in (await _oldest(patient, idle)).items():
        if waited > patient.config.ack_wait:
            what = f"jobs wait: {shard.waiting:,}, the first for {waited:,.0f} s; a worker is there, and gets none"
            remedy = (
                f"`jsjobs pause {shard.shard.priority} --for 5s` wakes it when that ends; if not, restart the workers"
            )
            yield Finding("stalled", Severity.PROBLEM, what, shard.name, remedy)


def _is_quiet(patient: Patient, shard: ShardLook) -> bool:
    """Whether nothing was delivered of late: between two jobs a shard looks idle too."""
    info = patient.shards.get(shard.shard, {})
    active = info.get("delivered", {}).get("last_active")
    return active is None or server_time(info) - parse_time(active) > timedelta(seconds=patient.config.ack_wait)


async def _oldest(patient: Patient, shards: list[ShardLook]) -> dict[ShardLook, float]:
    """Seconds that the first job of each waits; a job in flight is behind what was delivered, and has waited too."""
    places = {shard.shard: shard.last_delivered - (1 if shard.running else 0) for shard in shards}
    found = await oldest_waiting(patient.connection, patient.names, places.items())
    return {
        shard: max(0.0, (shard.seen_at - stored).total_seconds())
        for shard in shards
        if (stored := found[shard.shard]) is not None
    }
