"""Check the shards for jobs that will not run until somebody does something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.monitoring.backlog import first_waiting, oldest_waiting
from jsjobs.jetstream.monitoring.overview import ShardLook
from jsjobs.jetstream.monitoring.running_jobs import InFlight, RunningJob
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.model.job import Status
from jsjobs.model.times import rfc3339


async def paused(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the pauses of whole priorities and of single shards."""
    for look in deployment.overview.priorities if deployment.overview else ():
        held = [shard for shard in look.running_shards if shard.paused]
        if not held:
            continue
        ends = {shard.paused_until for shard in held}
        end = max((end for end in ends if end is not None), default=UNTIL_RESUMED)
        until = "until you resume it" if end == UNTIL_RESUMED else f"until {rfc3339(end)}"
        some = (
            ""
            if len(held) == len(look.running_shards)
            else f", but only {len(held)} of {len(look.running_shards)} shards"
        )
        behind = sum(shard.waiting for shard in held)
        severity = Severity.WARNING if behind or some else Severity.NOTE
        what = f"it is paused {until}{some}; jobs waiting: {behind:,}"
        yield Finding(
            "paused", severity, what, look.priority, f"if that is not intended: `jsjobs resume {look.priority}`"
        )


async def workers(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards that no worker listens to."""
    alone = [shard for shard in deployment.looks if not shard.has_worker]
    if not alone:
        return
    remedy = "start workers: `jsjobs worker module:attr`; if some run, check that they are ready and of this namespace"
    if len(alone) == len(deployment.looks) and not any(shard.waiting + shard.running for shard in alone):
        yield Finding("workers", Severity.NOTE, "no worker is running; no job waits for one", "", remedy)
        return
    oldest = await _oldest(deployment, alone)
    for shard in alone:
        if busy := shard.waiting + shard.running:
            waited = oldest.get(shard, 0.0)
            severity = Severity.PROBLEM if waited > deployment.config.ack_wait else Severity.WARNING
            what = f"no worker is running, and jobs wait: {busy:,}, the first for {waited:,.0f} s"
            yield Finding("workers", severity, what, shard.name, remedy)
    idle = [shard.name for shard in alone if not shard.waiting + shard.running]
    if idle and len(alone) < len(deployment.looks):
        yield Finding("workers", Severity.WARNING, "no worker listens", ", ".join(idle), remedy)


async def stalled(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards with workers and jobs in which nothing is delivered."""
    idle = [shard for shard in deployment.looks if shard.waiting and shard.has_worker and not shard.running]
    idle = [shard for shard in idle if not shard.paused and not shard.is_busy and _is_quiet(deployment, shard)]
    for shard, waited in (await _oldest(deployment, idle)).items():
        if waited > deployment.config.ack_wait:
            what = f"jobs wait: {shard.waiting:,}, the first for {waited:,.0f} s; a worker is running, but gets none"
            remedy = (
                f"`jsjobs pause {shard.shard.priority} --for 5s` wakes it when that ends; if not, restart the workers"
            )
            yield Finding("stalled", Severity.PROBLEM, what, shard.name, remedy)


async def held(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards in which jobs wait behind one that has held the shard for long: slow, or failing repeatedly."""
    behind = {look.name: look for look in deployment.looks if look.waiting and look.running}
    busy = {look.shard: deployment.shards[look.shard] for look in behind.values() if look.shard in deployment.shards}
    in_flight = InFlight(deployment.connection, deployment.names, StateStore(deployment.connection, deployment.names))
    for job in await in_flight.jobs(busy, len(busy)):
        look, since = behind[job.shard], job.begun_at or job.since
        if (look.seen_at - since).total_seconds() <= deployment.config.ack_wait:
            continue
        first = await first_waiting(deployment.connection, deployment.names, look.shard, look.last_delivered)
        waited = 0.0 if first is None else max(0.0, (look.seen_at - first).total_seconds())
        of_type = f" ({job.type})" if job.type else ""
        what = (
            f"{job.job_id}{of_type} has held it since {rfc3339(since)}, {_until(job)}; jobs wait behind it: "
            f"{look.waiting:,}, the first for {waited:,.0f} s"
        )
        remedy = (
            f"`jsjobs status {job.job_id}` tells why, `jsjobs cancel {job.job_id}` ends it; more shards let fewer "
            "jobs wait behind a slow one"
        )
        yield Finding("held", Severity.WARNING, what, job.shard, remedy)


def _until(job: RunningJob) -> str:
    """Describe until when a job holds its shard."""
    if job.snoozed_until is not None:
        return f"and its handler is called again at {rfc3339(job.snoozed_until)}"
    if job.next_attempt_at is not None:
        when = rfc3339(job.next_attempt_at)
        return f"has failed, and is tried again at {when}, attempt {job.attempt + 1} of {job.max_attempts}"
    if job.status is Status.PROCESSING:
        return f"until attempt {job.attempt} of {job.max_attempts} ends, which began at {rfc3339(job.since)}"
    return "until a worker begins it again"


def _is_quiet(deployment: Deployment, shard: ShardLook) -> bool:
    """Return whether nothing was delivered recently; between two jobs a shard looks idle too."""
    info = deployment.shards.get(shard.shard)
    active = None if info is None else info.delivered.last_active
    return info is None or active is None or info.ts - active > timedelta(seconds=deployment.config.ack_wait)


async def _oldest(deployment: Deployment, shards: list[ShardLook]) -> dict[ShardLook, float]:
    """Return for how many seconds the first job of each shard has waited.

    A job in flight is behind what was delivered, and has waited too.
    """
    places = {shard.shard: shard.last_delivered - (1 if shard.running else 0) for shard in shards}
    found = await oldest_waiting(deployment.connection, deployment.names, places.items())
    return {
        shard: max(0.0, (shard.seen_at - stored).total_seconds())
        for shard in shards
        if (stored := found[shard.shard]) is not None
    }
