"""A job as its message tells it: read once, in the same way, by workers, routers and whoever looks a job up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import NoResponders, no_streams
from jsjobs.jetstream.given import believed
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.stored import StoredMessage, find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import NO_HEADERS, JobHeaders, UnreadableHeaders, parse_job_headers
from jsjobs.model.context import RequestContext
from jsjobs.model.errors import JobError
from jsjobs.model.job import (
    DEFAULT_MAX_ATTEMPTS,
    Carrier,
    JobStatusResponse,
    Priority,
    Status,
    built,
    history_item,
    new_status,
)


class IncomingJob(NamedTuple):
    """What a message says of its job."""

    job_id: str
    type: str
    priority: Priority
    shard: int
    headers: JobHeaders
    problem: JobError | None
    """Why the message cannot be run, if its headers cannot be read."""
    carrier: Carrier
    data: bytes
    scheduled_for: datetime | None = None
    """When it was due, if it is a firing of a periodic schedule."""

    @property
    def has_given_id(self) -> bool:
        """Whether its id is another than its place in the queue gives it, so that several messages may carry it."""
        return self.headers.given_id is not None or self.headers.firing is not None

    def context(self) -> RequestContext:
        """What is true while the job is in hand."""
        own = self.headers
        return RequestContext(
            own.tenant, own.request_id, own.entity, self.type, self.shard, job_id=self.job_id, trace=own.trace
        )

    def entry(self, **more: Any) -> JobStatusResponse:
        """The entry of a job that nobody has written of yet, with further fields."""
        more["carrier"], more["scheduled_for"] = self.carrier, self.scheduled_for
        return new_entry(self.job_id, self.type, self.priority, self.headers, self.carrier.stored_at, more)

    def begun(self, now: datetime, worker: str) -> JobStatusResponse:
        """The entry of its first attempt: what `entry` gives, `started`, in one step less."""
        item = history_item(Status.PROCESSING, now, 1)
        return self.entry(status=Status.PROCESSING, attempts=1, history=(item,), worker=worker)

    def own(self, entry: JobStatusResponse) -> JobStatusResponse | None:
        """What an entry under this job's id says of this job.

        Returns:
            The entry, if it is this message's or names no message yet. None, if another copy carries the given id.
            A new entry, if it is an older job's: an older stream was restored beside a newer bucket.
        """
        if entry.carrier is None or entry.carrier == self.carrier:
            return entry
        return None if self.has_given_id else self.entry()


def new_entry(
    job_id: str, job_type: str, priority: Priority, headers: JobHeaders, created_at: datetime, more: dict[str, Any]
) -> JobStatusResponse:
    """The first entry of a job.

    Args:
        job_id: Its id.
        job_type: What it is.
        priority: Its queue.
        headers: What its message says.
        created_at: When it was submitted.
        more: Further fields of the entry; without them it is queued.
    """
    return new_status(
        {
            "job_id": job_id,
            "type": job_type,
            "priority": priority,
            "entity": headers.entity,
            "tenant": headers.tenant,
            "batch_id": headers.batch_id,
            "created_at": created_at,
            "max_attempts": headers.max_attempts or DEFAULT_MAX_ATTEMPTS,
        }
        | more
    )


def given_entry(
    job_id: str, job_type: str, priority: Priority, headers: JobHeaders, now: datetime, **more: Any
) -> JobStatusResponse:
    """The entry of a job whose id was given to it, written at its submit: which message carries it is not known yet.

    Args:
        job_id: Its id.
        job_type: What it is.
        priority: Its queue.
        headers: What its message says.
        now: When it is submitted.
        **more: Further fields of the entry.
    """
    more["history"] = (history_item(Status.QUEUED, now, 0),)
    return new_entry(job_id, job_type, priority, headers, now, more)


async def fetch_job(connection: Connection, names: Names, priority: Priority, sequence: int) -> IncomingJob | None:
    """The job in a message that is still stored, or None.

    Raises:
        NoResponders: If the queue's stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached; `Validation`, as `read_job`.
    """
    message = await find_stored(connection, names.stream(priority), {"seq": sequence})
    return None if message is None else read_stored_job(names, message)


async def fetch_waiting(connection: Connection, names: Names, job_id: str) -> IncomingJob | None:
    """The job with an id that its place in a queue gave it, if its message is still stored there.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the queue's stream does not exist;
            `Validation`, as `read_job`.
    """
    place = parse_plain_id(job_id)
    try:
        job = None if place is None else await fetch_job(connection, names, *place)
    except NoResponders as error:
        raise JobError.from_runner_unavailable(no_streams(names.namespace)) from error
    # A message that carries another id is another job's.
    return job if job is not None and job.job_id == job_id else None


def read_stored_job(names: Names, message: StoredMessage) -> IncomingJob:
    """Read a message that was looked up in its queue.

    Raises:
        JobError: As `read_job`.
    """
    sequence, subject, stored_at, header, data = message
    return read_job(names, subject, header, data, sequence=sequence, stored_at=stored_at)


def read_job(
    names: Names, subject: bytes, header: bytes, data: bytes, *, sequence: int, stored_at: datetime
) -> IncomingJob:
    """Read a message of a queue.

    Raises:
        JobError: `Validation`, if its subject is none of a queue. Headers that cannot be read are the job's `problem`.
    """
    place = names.parse_stored(subject)
    headers = NO_HEADERS
    problem: JobError | None = None
    if header:
        try:
            headers = parse_job_headers(header)
        except UnreadableHeaders as error:
            headers, problem = error.readable, error
    job_id, due = None, None
    if headers.given_id is not None or headers.firing is not None:
        job_id, headers, due, doubt = believed(names, subject, header, headers, stored_at)
        problem = problem or doubt
    carrier = built(Carrier, {"stream": place.stream, "sequence": sequence, "stored_at": stored_at})
    job_id = job_id or f"{place.prefix}{sequence}"
    return IncomingJob(job_id, place.type, place.priority, place.shard, headers, problem, carrier, data, due)
