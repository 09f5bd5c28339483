"""What stands in the queues, as the publisher meant it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.incoming import IncomingJob, read_stored_job
from jsjobs.jetstream.stored import stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import parse_json
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration, Priority


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
    max_attempts: int
    duration: Duration
    timeout: float | None
    """Seconds that one attempt may take."""
    expires: datetime | None
    """When it is no longer started."""


async def queued_jobs(connection: Connection, names: Names) -> list[QueuedJob]:
    """Every job of a namespace that has not ended, in the order submitted."""
    jobs: list[IncomingJob] = []
    for priority in Priority:
        async for message in stored(connection, names.stream(priority)):
            jobs.append(read_stored_job(names, message))  # noqa: PERF401 - a comprehension hides the reading
    jobs.sort(key=lambda job: job.carrier.stored_at)
    return [_queued(job) for job in jobs]


def _queued(job: IncomingJob) -> QueuedJob:
    payload: Any = job.data
    with suppress(JobError):
        payload = parse_json(job.data, "the payload")
    return QueuedJob(
        job_id=job.job_id,
        type=job.type,
        payload=payload,
        priority=job.priority,
        entity=job.headers.entity,
        tenant=job.headers.tenant,
        request_id=job.headers.request_id,
        batch_id=job.headers.batch_id,
        max_attempts=job.headers.max_attempts,
        duration=job.headers.duration,
        timeout=job.headers.timeout,
        expires=job.headers.expires,
    )
