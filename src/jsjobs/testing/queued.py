"""The jobs that wait in the queues, or will come into them, as their publishers described them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import IncomingJob, read_stored_job
from jsjobs.jetstream.protocol.headers import JobHeaders, parse_json, read_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.tracking.lookup import delayed_schedules
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration, Priority
from jsjobs.model.lanes import QUEUES

FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job that was submitted and has not ended."""

    job_id: str
    type: str
    payload: Any
    """The payload as JSON values; bytes, if a raw publisher sent something that is not JSON."""
    priority: Priority
    entity: str | None
    tenant: str | None
    request_id: str | None
    batch_id: str | None
    max_attempts: int | None
    """Attempts before the job is dead; None: the publisher left that to the handler's policy."""
    duration: Duration | None
    """None: the publisher left it open; the job is short, unless its `timeout` needs more."""
    timeout: float | None
    """Seconds that one attempt may take."""
    expires: datetime | None
    """The time after which the job is no longer started."""
    scheduled_for: datetime | None
    """The time when a delayed job is due; None: the job is in its queue."""


async def scheduled_jobs(connection: Connection, names: Names) -> list[QueuedJob]:
    """Return every delayed job of a namespace that is not due yet, in the order in which they fall due."""
    jobs = []
    async for schedule in delayed_schedules(connection, names):
        entry = schedule.entry(names)
        headers = read_job_headers(tuple(schedule.own_headers.items()))
        jobs.append(_described(entry.job_id, entry.type, entry.priority, headers, schedule.data, entry.scheduled_for))
    return sorted(jobs, key=lambda job: job.scheduled_for or FAR)


async def queued_jobs(connection: Connection, names: Names) -> list[QueuedJob]:
    """Return every job of a namespace that has not ended, in the order submitted."""
    jobs: list[IncomingJob] = []
    for queue in QUEUES:
        async for message in stored(connection, names.queue(queue)):
            jobs.append(read_stored_job(names, message))  # noqa: PERF401 - a comprehension would hide the reading
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
