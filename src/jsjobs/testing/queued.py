"""What stands in the queues, or is to come into them, as the publisher meant it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.incoming import IncomingJob, read_stored_job
from jsjobs.jetstream.stored import stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.waiting import delayed_schedules
from jsjobs.jetstream.wire import JobHeaders, header_block, parse_job_headers, parse_json
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration, Priority

FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job that was submitted and has not ended."""

    job_id: str
    type: str
    payload: Any
    """As JSON values; bytes, where a raw publisher sent what is no JSON."""
    priority: Priority
    entity: str | None
    tenant: str | None
    request_id: str | None
    batch_id: str | None
    max_attempts: int | None
    """None: the publisher left it to the handler's policy."""
    duration: Duration | None
    """None: the publisher left it open: short, unless its `timeout` needs more."""
    timeout: float | None
    """Seconds that one attempt may take."""
    expires: datetime | None
    """When it is no longer started."""
    scheduled_for: datetime | None
    """When a job that was submitted with a delay is due; None: it is in its queue."""


async def scheduled_jobs(connection: Connection, names: Names) -> list[QueuedJob]:
    """Every delayed job of a namespace that is not due yet, in the order in which they are."""
    jobs = []
    async for schedule in delayed_schedules(connection, names):
        entry = schedule.entry(names)
        headers = parse_job_headers(header_block(schedule.own_headers))
        jobs.append(_described(entry.job_id, entry.type, entry.priority, headers, schedule.data, entry.scheduled_for))
    return sorted(jobs, key=lambda job: job.scheduled_for or FAR)


async def queued_jobs(connection: Connection, names: Names) -> list[QueuedJob]:
    """Every job of a namespace that has not ended, in the order submitted."""
    jobs: list[IncomingJob] = []
    for priority in Priority:
        async for message in stored(connection, names.stream(priority)):
            jobs.append(read_stored_job(names, message))  # noqa: PERF401 - a comprehension hides the reading
    jobs.sort(key=lambda job: job.carrier.stored_at)
    return [_queued(job) for job in jobs]


def _queued(job: IncomingJob) -> QueuedJob:
    return _described(job.job_id, job.type, job.priority, job.headers, job.data, None)


def _described(
    job_id: str, job_type: str, priority: Priority, headers: JobHeaders, data: bytes, due: datetime | None
) -> QueuedJob:
    payload: Any = data
    with suppress(JobError):
        payload = parse_json(data, "the payload")
    return QueuedJob(
        job_id=job_id,
        type=job_type,
        payload=payload,
        priority=priority,
        entity=headers.entity,
        tenant=headers.tenant,
        request_id=headers.request_id,
        batch_id=headers.batch_id,
        max_attempts=headers.max_attempts,
        duration=headers.duration,
        timeout=headers.timeout,
        expires=headers.expires,
        scheduled_for=due,
    )
