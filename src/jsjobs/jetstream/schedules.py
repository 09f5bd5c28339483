"""Schedules: messages on `<namespace>.at.>` that the server itself publishes when they are due.

One subject holds one schedule. Every change of one names the message that it was decided on: the server takes the
schedule away in the very write in which it fires. What comes between its reading it and that write, `overtaken` finds.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jsjobs.jetstream.acknowledgements import answer_of, refusal
from jsjobs.jetstream.away import comes_back
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.incoming import new_entry
from jsjobs.jetstream.overtaken import Overtaken
from jsjobs.jetstream.state import WRONG_REVISION
from jsjobs.jetstream.stored import StoredMessage, find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, header_block, parse_block, parse_job_headers
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, random_token
from jsjobs.model.times import parse_rfc3339, rfc3339

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"
_FIRED_TTL = "8760h"
"""How long the schedule stream keeps what fired, where no router clears it away: a year, longer than any backlog."""
_TOMBSTONE_TTL = "60s"
_WRITER = "Jsjobs-Writer"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_AT = "@at "
MAX_SCHEDULED = 892 * 1024
"""Header and body of a schedule, at most: less than a queue takes, since headers are added when it fires."""


class ScheduleChanged(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The schedule fired, or somebody else changed it, first: look again and decide anew."""

    def __init__(self) -> None:
        super().__init__(Reason.PROCESSING, "the schedule fired or was changed meanwhile")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What stands on a schedule's subject."""

    subject: bytes
    sequence: int
    stored_at: datetime
    headers: dict[str, str]
    """As it was published; where a name comes twice, its last value."""
    data: bytes

    @property
    def job_id(self) -> str | None:
        """The id that the job will have."""
        return self.headers.get(GIVEN_ID)

    @property
    def is_live(self) -> bool:
        """Whether it will fire; what was removed leaves a message without a schedule for a moment."""
        return SCHEDULE in self.headers

    @property
    def own_headers(self) -> dict[str, str]:
        """The job's own headers: none of the server's, none of this module's."""
        return {name: value for name, value in self.headers.items() if not name.startswith("Nats-") and name != _WRITER}

    @property
    def timing(self) -> dict[str, str]:
        """The headers that say when, how and whereto it fires."""
        return {name: value for name, value in self.headers.items() if name.startswith(SCHEDULE)}

    @property
    def due(self) -> datetime | None:
        """When it fires, if it does so once."""
        pattern = self.headers.get(SCHEDULE, "")
        with suppress(ValueError):
            return parse_rfc3339(pattern.removeprefix(_AT)) if pattern.startswith(_AT) else None
        return None

    def entry(self, names: Names) -> JobStatusResponse:
        """The entry of a delayed job that nobody has written of yet.

        Raises:
            JobError: `Validation`, if the schedule is not one of a job.
        """
        priority, job_type = names.queue_of_due(self.headers.get(TARGET, "").encode())
        headers = parse_job_headers(header_block(self.own_headers))
        return new_entry(self.job_id or "", job_type, priority, headers, self.stored_at, scheduled_for=self.due)


def delayed(names: Names, subject: bytes, headers: dict[str, str], due: datetime) -> dict[str, str]:
    """Headers of a job's schedule.

    Args:
        names: The namespace.
        subject: Where the job would be published without a delay.
        headers: The job's own.
        due: When it is to fire.
    """
    return {**headers, **timed(names.due(subject), at_pattern(due))}


def at_pattern(due: datetime) -> str:
    """A time as the server wants it."""
    return f"{_AT}{rfc3339(due)}"


def timed(target: bytes, pattern: str) -> dict[str, str]:
    """The headers that make a message a schedule.

    Args:
        target: Where the server publishes.
        pattern: When, in the server's words.
    """
    return {SCHEDULE: pattern, TARGET: target.decode(), "Nats-Schedule-TTL": _FIRED_TTL}


class Schedules:
    """Reads and changes the schedules of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout

    async def find(self, subject: bytes) -> Schedule | None:
        """What stands on a subject, as some server of the cluster has it; the next write decides.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the stream cannot be reached; `Validation`, if what stands
                there has headers that cannot be read.
        """
        try:
            request = {"last_by_subj": subject.decode()}
            message = await find_stored(self._connection, self._names.schedule_stream, request)
        except NoResponders:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from None
        return None if message is None else read_schedule(message)

    async def of_job(self, job_id: str) -> Schedule | None:
        """The schedule of a delayed job, or what its removal left; None if it fired, or there never was one.

        Raises:
            JobError: As `find`.
        """
        found = await self.find(self._names.schedule(job_id))
        return found if found is not None and found.job_id == job_id else None

    async def store(self, subject: bytes, headers: dict[str, str], data: bytes, *, expected: int | None = None) -> int:
        """Put a schedule on a subject, in the place of what stands there.

        Args:
            subject: The schedule's own.
            headers: All of the message's.
            data: The job's body.
            expected: The message it replaces, 0 for none; None: whatever stands there.

        Returns:
            Its place in the stream.

        Raises:
            ScheduleChanged: If another message stands there.
            ConnectionLost: If it is not known whether it was stored.
            JobError: `Validation`, if it is too large or the server refuses it; `RunnerUnavailable`: it was not stored.
        """
        writer = random_token()
        named = {**headers, _WRITER: writer}
        if expected is not None:
            named[_EXPECTED] = str(expected)
        size = len(data) + len(header_block(named))
        if size > MAX_SCHEDULED:
            raise JobError.from_validation(
                f"the job is too large for a schedule ({size} bytes with its headers, {MAX_SCHEDULED} are taken): "
                "nothing was queued"
            )
        answer, was_lost = await self._publish(subject, named, data)
        if (answer.get("error") or {}).get("err_code") in WRONG_REVISION:
            if was_lost:  # the refusal may be the answer to a copy of this very write
                found = await self.find(subject)
                if found is not None and found.headers.get(_WRITER) == writer:
                    return found.sequence
            raise ScheduleChanged
        return _sequence(answer)

    async def replace(self, old: Schedule, headers: dict[str, str], data: bytes) -> None:
        """Put a schedule in the place of one that fires once, if that does not.

        Raises:
            ScheduleChanged: If the old one fired, or another stands there by now.
            JobError: As `store`.
        """
        began = time.monotonic()
        sequence = await self.store(old.subject, headers, data, expected=old.sequence)
        if old.due is not None:
            overtaken = Overtaken(self._connection, self._names, old.subject, sequence, self._timeout)
            own = {name: old.headers[name] for name in (TARGET, _WRITER) if name in old.headers}
            if await overtaken.old_fires(old.due, own, time.monotonic() - began):
                raise ScheduleChanged

    async def remove(self, schedule: Schedule) -> None:
        """Take a schedule away, so that it never fires.

        Raises:
            ScheduleChanged: If it fired, or another stands there by now.
            JobError: As `store`.
        """
        kept = {GIVEN_ID: schedule.job_id} if schedule.job_id else {}
        gone = {**kept, "Nats-Rollup": "sub", "Nats-TTL": _TOMBSTONE_TTL}
        await self.store(schedule.subject, gone, b"", expected=schedule.sequence)

    async def fire(self, schedule: Schedule) -> None:
        """Publish a delayed job now, in the place of its schedule and in the same write.

        Raises:
            ScheduleChanged: If it fired, or another stands there by now.
            JobError: As `store`.
        """
        headers = schedule.own_headers | {
            "Nats-Scheduler": schedule.subject.decode(),
            "Nats-Schedule-Next": "purge",
            "Nats-TTL": _FIRED_TTL,
            _EXPECTED: str(schedule.sequence),
            f"{_EXPECTED}-Subject": schedule.subject.decode(),
        }
        answer, was_lost = await self._publish(schedule.headers[TARGET].encode(), headers, schedule.data)
        if (answer.get("error") or {}).get("err_code") in WRONG_REVISION:
            if was_lost and await self.find(schedule.subject) is None:
                return  # by this write, or by the clock: it fired
            raise ScheduleChanged
        _sequence(answer)

    async def _publish(self, subject: bytes, headers: dict[str, str], data: bytes) -> tuple[dict[str, Any], bool]:
        """The server's answer, and whether an answer to the same publish was lost before."""
        block, was_lost = header_block(headers), False
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                reply = await self._connection.ask(subject, data, header=block, timeout=self._timeout)
            except NoResponders:
                if not await comes_back(self._connection, self._names.schedule_stream, deadline):
                    raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from None
            except ConnectionLost:
                if was_lost:
                    raise
                was_lost = True
            else:
                return answer_of(reply), was_lost


def read_schedule(message: StoredMessage) -> Schedule:
    """Read what stands on a schedule's subject.

    Raises:
        JobError: `Validation`, if its headers cannot be read.
    """
    sequence, subject, stored_at, header, data = message
    return Schedule(subject, sequence, stored_at, dict(parse_block(header)), data)


def _sequence(answer: dict[str, Any]) -> int:
    error = answer.get("error")
    if error is not None:
        raise refusal(error)
    return int(answer["seq"])
