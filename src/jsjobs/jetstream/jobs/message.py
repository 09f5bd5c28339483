"""Read a job's message, in the same way for workers, routers and whoever looks a job up.

An id that a message carries is believed only where the server itself says where the message came from. Ids are no
secrets, and whoever may publish jobs may write any header. Two headers are the server's own: a queue's source adds
`Nats-Stream-Source` to what it takes from the schedules, and a message fired by a schedule has `Nats-Scheduler` with
the schedule's subject. The server's check of them can be circumvented
(docs/server-quirks.md#the-servers-own-headers-can-be-sent), so each counts only if its name occurs once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api.messages import StoredMessage, find_stored
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders, no_streams
from jsjobs.jetstream.protocol.firing import NAME
from jsjobs.jetstream.protocol.headers import (
    ENTITY,
    GIVEN_ID,
    NO_HEADERS,
    JobHeaders,
    UnreadableHeaders,
    parse_job_headers,
    value_of,
)
from jsjobs.jetstream.protocol.job_ids import is_replay_id, parse_plain_id
from jsjobs.jetstream.protocol.names import Names
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
from jsjobs.model.lanes import QUEUES, Lane, Queue

_MISPLACED = JobError.from_validation(
    f"{ENTITY}: a job of the parallel lane has none; publish one that has on <namespace>.<priority>.<entity>.<type>"
)
_SOURCE = b"Nats-Stream-Source"
_SCHEDULER = b"Nats-Scheduler"


class Believed(NamedTuple):
    """The claims of a message that carries an id, as far as they are true."""

    job_id: str | None
    """None if the message may not carry the id: its job then has an id of its own."""
    headers: JobHeaders
    """The headers without those that are not true."""
    due: datetime | None = None
    """The due time, if it is a firing of a periodic schedule."""
    problem: JobError | None = None
    """The reason the message cannot be run."""


def believed(names: Names, subject: bytes, header: bytes, headers: JobHeaders, stored_at: datetime) -> Believed:
    """Decide whether the id that a message carries is believed; call it only for a message that carries one.

    Args:
        names: The namespace.
        subject: The subject under which the message is stored.
        header: Its header block.
        headers: The parsed header block.
        stored_at: When it was stored.
    """
    is_ours = _came_from_the_schedules(names, subject, header)
    given, firing = headers.given_id, headers.firing
    if given is not None:
        if is_ours and _may_carry(names, header, given):
            return Believed(given, headers)
        problem = (
            f"{GIVEN_ID}: {given!r} belongs to another job: only its own schedule's message, or a replay, may carry "
            "it; leave the header out"
        )
    else:
        assert firing is not None
        if is_ours and _once(header, _SCHEDULER) == names.periodic(firing.name):
            due = firing.due(stored_at)
            return Believed(firing.job_id(due), headers, due)
        problem = f"{NAME}: no schedule {firing.name!r} fired this message; leave Nats-Schedule-Next out"
    return Believed(None, replace(headers, given_id=None, firing=None), problem=JobError.from_validation(problem))


def _may_carry(names: Names, header: bytes, given: str) -> bool:
    if is_replay_id(given):
        return _SCHEDULER not in header  # published directly on `due`, where no publisher of jobs may publish
    return _once(header, _SCHEDULER) == names.schedule(given)


def _came_from_the_schedules(names: Names, subject: bytes, header: bytes) -> bool:
    """Return whether the message is due in the schedule stream, or was taken from there by its queue."""
    if subject.startswith(b"%b.due." % names.namespace.encode()):
        return True
    source = _once(header, _SOURCE) or b""
    # The stream's name is followed by its account or domain, if that is another one, then by the message's place.
    return source.partition(b" ")[0].partition(b":")[0] == names.schedule_stream.encode()


def _once(header: bytes, name: bytes) -> bytes | None:
    return value_of(header, name) if header.count(name) == 1 else None


class IncomingJob(NamedTuple):
    """A job as its message describes it."""

    job_id: str
    type: str
    queue: Queue
    shard: int | None
    """The number of its shard; None in the parallel lane."""
    headers: JobHeaders
    problem: JobError | None
    """The reason the message cannot be run, if its headers cannot be read."""
    carrier: Carrier
    data: bytes
    scheduled_for: datetime | None = None
    """The due time, if it is a firing of a periodic schedule."""

    @property
    def priority(self) -> Priority:
        """Return the priority of its queue."""
        return self.queue.priority

    @property
    def has_given_id(self) -> bool:
        """Return whether its id does not come from its place in the queue, so that several messages may carry it."""
        return self.headers.given_id is not None or self.headers.firing is not None

    def context(self) -> RequestContext:
        """Return the request context in which the job runs."""
        own = self.headers
        return RequestContext(
            own.tenant, own.request_id, own.entity, self.type, self.shard, job_id=self.job_id, trace=own.trace
        )

    def entry(self, **more: Any) -> JobStatusResponse:
        """Return the entry of a job that nobody has written an entry for, with further fields."""
        more["carrier"], more["scheduled_for"] = self.carrier, self.scheduled_for
        return new_entry(self.job_id, self.type, self.priority, self.headers, self.carrier.stored_at, more)

    def begun(self, now: datetime, worker: str) -> JobStatusResponse:
        """Return the entry of its first attempt.

        It equals the result of `entry`, then `started`, but takes one step less.
        """
        item = history_item(Status.PROCESSING, now, 1)
        return self.entry(status=Status.PROCESSING, attempts=1, history=(item,), worker=worker)

    def own(self, entry: JobStatusResponse) -> JobStatusResponse | None:
        """Return what an entry under this job's id says about this job.

        Returns:
            The entry, if it belongs to this message or names no message yet. None, if another copy carries the given
            id. A new entry, if it belongs to an older job: an older stream was restored beside a newer bucket.
        """
        if entry.carrier is None or entry.carrier == self.carrier:
            return entry
        return None if self.has_given_id else self.entry()


def new_entry(
    job_id: str, job_type: str, priority: Priority, headers: JobHeaders, created_at: datetime, more: dict[str, Any]
) -> JobStatusResponse:
    """Return the first entry of a job.

    Args:
        job_id: The job's id.
        job_type: The job's type.
        priority: The job's priority.
        headers: The headers of its message.
        created_at: When it was submitted.
        more: Further fields of the entry; without them its status is queued.
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
    """Return the entry of a job with a given id, written at its submit, when its message is not known yet.

    Args:
        job_id: The job's id.
        job_type: The job's type.
        priority: The job's priority.
        headers: The headers of its message.
        now: When it is submitted.
        **more: Further fields of the entry.
    """
    more["history"] = (history_item(Status.QUEUED, now, 0),)
    return new_entry(job_id, job_type, priority, headers, now, more)


async def fetch_job(connection: Connection, names: Names, queue: Queue, sequence: int) -> IncomingJob | None:
    """Return the job in a message that is still stored, or None.

    Raises:
        NoResponders: If the queue's stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached; `Validation`, as `read_job`.
    """
    message = await find_stored(connection, names.queue(queue), {"seq": sequence})
    return None if message is None else read_stored_job(names, message)


async def fetch_carrier(connection: Connection, names: Names, carrier: Carrier) -> IncomingJob | None:
    """Return the job in the message that an entry names, or None if it is no longer stored, or in no queue of ours.

    Raises:
        JobError: As in `fetch_job`.
    """
    queue = next((queue for queue in QUEUES if names.queue(queue) == carrier.stream), None)
    return None if queue is None else await fetch_job(connection, names, queue, carrier.sequence)


async def fetch_waiting(connection: Connection, names: Names, job_id: str) -> IncomingJob | None:
    """Return the job whose id names a place in a queue, or None if its message is no longer stored there.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the queue's stream does not exist;
            `Validation`, as `read_job`.
    """
    place = parse_plain_id(job_id)
    try:
        job = None if place is None else await fetch_job(connection, names, *place)
    except NoResponders as error:
        raise JobError.from_runner_unavailable(no_streams(names.namespace)) from error
    # A message that carries another id belongs to another job.
    return job if job is not None and job.job_id == job_id else None


def read_stored_job(names: Names, message: StoredMessage) -> IncomingJob:
    """Read a message that was looked up in its queue.

    Raises:
        JobError: As in `read_job`.
    """
    sequence, subject, stored_at, header, data = message
    return read_job(names, subject, header, data, sequence=sequence, stored_at=stored_at)


def read_job(
    names: Names, subject: bytes, header: bytes, data: bytes, *, sequence: int, stored_at: datetime
) -> IncomingJob:
    """Read a message of a queue.

    Raises:
        JobError: `Validation`, if its subject is not one of a queue. Unreadable headers become the job's `problem`.
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
    shard: int | None = place.number
    if place.queue.lane is Lane.PARALLEL:
        shard = None
        if headers.entity is not None:
            headers, problem = replace(headers, entity=None), problem or _MISPLACED
    carrier = built(Carrier, {"stream": place.stream, "sequence": sequence, "stored_at": stored_at})
    job_id = job_id or f"{place.prefix}{sequence}"
    return IncomingJob(job_id, place.type, place.queue, shard, headers, problem, carrier, data, due)
