"""Check the shards and partitions for jobs that will not run until somebody does something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.monitoring.backlog import first_waiting, oldest_waiting
from jsjobs.jetstream.monitoring.overview import PartitionLook, ShardLook
from jsjobs.jetstream.monitoring.running_jobs import InFlight
from jsjobs.jetstream.protocol.names import Partition, Shard
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.model.job import Status
from jsjobs.model.queues import RunningJob
from jsjobs.model.times import rfc3339

Look = ShardLook | PartitionLook


async def paused(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the pauses of whole priorities, and of some of their shards and partitions."""
    for look in deployment.overview.priorities if deployment.overview else ():
        parts: list[Look] = [*look.running_shards, *look.partitions]
        held = [part for part in parts if part.paused]
        if not held:
            continue
        ends = {part.paused_until for part in held}
        end = max((end for end in ends if end is not None), default=UNTIL_RESUMED)
        until = "until you resume it" if end == UNTIL_RESUMED else f"until {rfc3339(end)}"
        some = (
            ""
            if len(held) == len(parts)
            else f", but only {len(held)} of {len(parts)} shards and partitions: {_names(held)}"
        )
        behind = sum(part.waiting for part in held)
        severity = Severity.WARNING if behind or some else Severity.NOTE
        what = f"it is paused {until}{some}; jobs waiting: {behind:,}"
        yield Finding(
            "paused", severity, what, look.priority, f"if that is not intended: `jsjobs resume {look.priority}`"
        )


async def workers(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards and partitions that no worker listens to."""
    both: list[Look] = [*deployment.looks, *deployment.partitions]
    alone = [look for look in both if not look.has_worker]
    if not alone:
        return
    remedy = "start workers: `jsjobs worker module:attr`; if some run, check that they are ready and of this namespace"
    if len(alone) == len(both) and not any(look.unfinished for look in alone):
        yield Finding("workers", Severity.NOTE, "no worker is running; no job waits for one", "", remedy)
        return
    oldest = await _oldest(deployment, alone)
    for look in alone:
        if look.unfinished:
            waited = oldest.get(look, 0.0)
            severity = Severity.PROBLEM if waited > deployment.config.ack_wait else Severity.WARNING
            what = f"no worker is running, and jobs wait: {look.unfinished:,}, the first for {waited:,.0f} s"
            yield Finding("workers", severity, what, look.name, remedy)
    idle = [look for look in alone if not look.unfinished]
    if idle and len(alone) < len(both):
        yield Finding("workers", Severity.WARNING, "no worker listens", _names(idle), remedy)


async def stalled(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards and partitions with workers and jobs in which nothing is delivered."""
    # Where workers have no free slot they ask a partition for nothing, and nothing is wrong.
    asked: list[Look] = [*(shard for shard in deployment.looks if shard.has_worker)]
    asked += [partition for partition in deployment.partitions if partition.requests]
    idle = [look for look in asked if look.waiting and not look.in_flight and not look.paused]
    idle = [look for look in idle if _is_quiet(deployment, look)]
    for look, waited in (await _oldest(deployment, idle)).items():
        if waited > deployment.config.ack_wait:
            what = f"jobs wait: {look.waiting:,}, the first for {waited:,.0f} s; a worker is running, but gets none"
            priority = _place(look).priority
            remedy = f"`jsjobs pause {priority} --for 5s` wakes it when that ends; if not, restart the workers"
            yield Finding("stalled", Severity.PROBLEM, what, look.name, remedy)


async def held(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the shards in which jobs wait behind one that has held the shard for long: slow, or failing repeatedly."""
    behind = {look.name: look for look in deployment.looks if look.waiting and look.in_flight}
    busy = {look.shard: deployment.shards[look.shard] for look in behind.values() if look.shard in deployment.shards}
    in_flight = InFlight(deployment.connection, deployment.names, StateStore(deployment.connection, deployment.names))
    for job in (await in_flight.of_shards(busy, len(busy))).values():
        look, since = behind[job.consumer], job.begun_at or job.since
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
        yield Finding("held", Severity.WARNING, what, job.consumer, remedy)


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


def _names(looks: Sequence[Look]) -> str:
    return ", ".join(look.name for look in looks)


def _place(look: Look) -> Shard | Partition:
    return look.shard if isinstance(look, ShardLook) else look.partition


def _is_quiet(deployment: Deployment, look: Look) -> bool:
    """Return whether nothing was delivered recently; between two jobs a shard looks idle too."""
    active = look.active_at
    return active is None or look.seen_at - active > timedelta(seconds=deployment.config.ack_wait)


async def _oldest(deployment: Deployment, looks: Sequence[Look]) -> dict[Look, float]:
    """Return for how many seconds the first job of each shard and partition has waited.

    A job in flight is behind what was delivered, and has waited too.
    """
    found = await oldest_waiting(
        deployment.connection, deployment.names, [(_place(look), _ended_up_to(look)) for look in looks]
    )
    return {
        look: max(0.0, (look.seen_at - stored).total_seconds())
        for look in looks
        if (stored := found[_place(look)]) is not None
    }


def _ended_up_to(look: Look) -> int:
    if isinstance(look, PartitionLook):
        return look.ended_up_to
    return look.last_delivered - (1 if look.in_flight else 0)
