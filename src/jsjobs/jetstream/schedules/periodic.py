"""Periodic schedules: one message each on `<namespace>.at.schedule.<name>`, from which the server makes jobs.

The message is the whole definition. A paused one keeps everything but the header that makes the server fire it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.api.publish import Outgoing
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders, no_streams
from jsjobs.jetstream.jobs.queue import OutgoingJob
from jsjobs.jetstream.protocol.firing import NAME, TIMETABLE, ZONE, is_schedule_name
from jsjobs.jetstream.protocol.headers import parse_json, read_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.schedule import SCHEDULE, TARGET, Schedule, read_schedule, timed
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.errors import JobError
from jsjobs.model.job import utc_now
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.timetable import Timetable
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.scheduling")

OWNER = "Jsjobs-Owner"
PAUSED = "Jsjobs-Paused"
_SERVER_ZONE = "Nats-Schedule-Time-Zone"
_OF_THE_SCHEDULE = {NAME, TIMETABLE, ZONE, OWNER, PAUSED}


class Definition(NamedTuple):
    """A periodic schedule, apart from whether it is paused."""

    name: str
    headers: dict[str, str]
    data: bytes

    @property
    def owner(self) -> str | None:
        """Return the application whose code declares the schedule."""
        return self.headers.get(OWNER)


def define(names: Names, name: str, timetable: Timetable, job: Outgoing, *, owner: str | None = None) -> Definition:
    """Return the definition of a schedule.

    Args:
        names: The namespace.
        name: The schedule's name.
        timetable: When it fires.
        job: The job it submits, on the subject of a queue.
        owner: The application whose code declares it.
    """
    headers = {**job.headers, NAME: name, TIMETABLE: timetable.text, **timed(names.due(job.subject), timetable.spec)}
    if timetable.zone is not None:
        headers |= {ZONE: timetable.zone, _SERVER_ZONE: timetable.zone}
    if owner is not None:
        headers[OWNER] = owner
    return Definition(name, headers, job.data)


def definition_of(schedule: Schedule) -> Definition:
    """Return the definition of a stored schedule, paused or not."""
    headers = schedule.own_headers | schedule.timing
    paused = headers.pop(PAUSED, None)
    if paused is not None:
        headers[SCHEDULE] = paused
    return Definition(_name(schedule), headers, schedule.data)


def is_there(schedule: Schedule | None) -> bool:
    """Return whether there is a schedule, paused or not, and not just the trace of a removed one."""
    return schedule is not None and (schedule.is_live or is_paused(schedule))


def is_paused(schedule: Schedule) -> bool:
    """Return whether a schedule does not fire until it is resumed."""
    return PAUSED in schedule.headers


class Periodic:
    """Read and change the periodic schedules of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._schedules = Schedules(connection, names, timeout=timeout)

    async def find(self, name: str) -> Schedule | None:
        """Return the message on a schedule's subject: the schedule, or the trace of its removal.

        Raises:
            JobError: As in `Schedules.find`.
        """
        return await self._schedules.find(self._names.periodic(name))

    async def all(self) -> AsyncIterator[Schedule]:
        """Yield every schedule, paused ones included, in the order of their last change.

        Raises:
            JobError: As in `Schedules.find`.
        """
        try:
            async for message in stored(
                self._connection, self._names.schedule_stream, self._names.periodic("*").decode()
            ):
                try:
                    schedule = read_schedule(message)
                except JobError as error:
                    logger.warning("the schedule on %r cannot be read: %s", message.subject, error.message)
                    continue
                # A change to a stranger's schedule on a subject such as `*` would change all that it matches.
                if is_there(schedule) and is_schedule_name(_name(schedule)):
                    yield schedule
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error

    async def store(self, definition: Definition, *, expected: int, paused: bool = False) -> Schedule:
        """Store a definition in place of the message on its subject.

        Args:
            definition: The new definition.
            expected: The sequence of the message it replaces, 0 for none.
            paused: Whether it fires only once it is resumed.

        Returns:
            The stored schedule.

        Raises:
            ScheduleChanged: If another message is stored there.
            JobError: As in `Schedules.store`.
        """
        headers = definition.headers
        if paused:
            kept = {name: value for name, value in headers.items() if name != SCHEDULE}
            headers = {**kept, PAUSED: headers[SCHEDULE], "Nats-Rollup": "sub"}
        subject = self._names.periodic(definition.name)
        sequence = await self._schedules.store(subject, headers, definition.data, expected=expected)
        stored_at = await self._schedules.stored_at(sequence)
        return Schedule(subject, sequence, stored_at or utc_now(), headers, definition.data)

    async def remove(self, schedule: Schedule) -> None:
        """Remove a schedule.

        Raises:
            ScheduleChanged: If another message is stored there by now.
            JobError: As in `Schedules.store`.
        """
        await self._schedules.remove(schedule)

    def job(self, schedule: Schedule) -> OutgoingJob:
        """Return the job that the schedule submits, to be submitted now.

        Raises:
            JobError: `Validation`, if no queue takes it.
        """
        own = {name: value for name, value in schedule.own_headers.items() if name not in _OF_THE_SCHEDULE}
        target = schedule.headers.get(TARGET, "").encode()
        # A stranger's schedule may name any subject, and we have rights that the stranger has not.
        queue, job_type = self._names.queue_of_due(target)
        return OutgoingJob(self._names.queue_subject(target), schedule.data, own, queue=queue, type=job_type)

    def status(self, schedule: Schedule, now: datetime) -> ScheduleStatus:
        """Return the status of a schedule, with the times of its next firings.

        Raises:
            JobError: `Validation`, if a stranger's message cannot be read.
        """
        definition = definition_of(schedule)
        headers = definition.headers
        if TIMETABLE not in headers:
            raise JobError.from_validation(
                f"{definition.name!r} is not a schedule of jsjobs: it has no header {TIMETABLE}"
            )
        timetable = Timetable.parse(headers[TIMETABLE], headers.get(ZONE))
        queue, job_type = self._names.queue_of_due(headers.get(TARGET, "").encode())
        job = read_job_headers(tuple(schedule.own_headers.items()))
        paused = is_paused(schedule)
        return ScheduleStatus(
            name=definition.name,
            timetable=timetable.text,
            zone=timetable.zone,
            type=job_type,
            payload=parse_json(schedule.data, "the payload"),
            priority=queue.priority,
            entity=job.entity,
            tenant=job.tenant,
            max_attempts=job.max_attempts,
            duration=job.duration,
            timeout=job.timeout,
            owner=definition.owner,
            paused=paused,
            changed_at=schedule.stored_at,
            next=() if paused else tuple(timetable.next(now, since=schedule.stored_at)),
        )


def _name(schedule: Schedule) -> str:
    return schedule.subject.decode("utf-8", "backslashreplace").rpartition(".")[2]
