"""Schedules: messages on `<namespace>.at.>` that the server itself publishes when they are due.

One subject holds one schedule. Every change of one names the message that it was decided on: the server takes the
schedule away in the very write in which it fires. What comes between its reading it and that write, `overtaken` finds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from jsjobs.jetstream.acknowledgements import answer_of, refusal
from jsjobs.jetstream.away import comes_back
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.overtaken import Overtaken
from jsjobs.jetstream.schedule import FIRED_TTL, TARGET, WRITER, Schedule, read_schedule
from jsjobs.jetstream.state import WRONG_REVISION
from jsjobs.jetstream.stored import find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, header_block
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import random_token

_TOMBSTONE_TTL = "60s"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MAX_SCHEDULED = 892 * 1024
"""Header and body of a schedule, at most: less than a queue takes, since headers are added when it fires."""


class ScheduleChanged(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The schedule fired, or somebody else changed it, first: look again and decide anew."""

    def __init__(self) -> None:
        super().__init__(Reason.PROCESSING, "the schedule fired or was changed meanwhile")


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
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error
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
        named = {**headers, WRITER: writer}
        if expected is not None:
            named[_EXPECTED] = str(expected)
        size = len(data) + len(header_block(named))
        if size > MAX_SCHEDULED:
            raise JobError.from_validation(
                f"the job is too large for a schedule ({size} bytes with its headers, {MAX_SCHEDULED} are taken): "
                "nothing was queued"
            )

        async def own() -> int | None:
            found = await self.find(subject)
            return found.sequence if found is not None and found.headers.get(WRITER) == writer else None

        return await self._decide(subject, named, data, own)

    async def stored_at(self, sequence: int) -> datetime | None:
        """When a message was stored; None, where that is not known here any more, or yet.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        found = await find_stored(self._connection, self._names.schedule_stream, {"seq": sequence})
        return None if found is None else found.stored_at

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
            own = {name: old.headers[name] for name in (TARGET, WRITER) if name in old.headers}
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
            JobError: `Validation`, if no queue takes it from where it would be published; as `store`.
        """
        target = schedule.headers.get(TARGET, "").encode()
        self._names.queue_of_due(target)  # a stranger's may be anything, and we have rights that it has not
        headers = schedule.own_headers | {
            "Nats-Scheduler": schedule.subject.decode(),
            "Nats-Schedule-Next": "purge",
            "Nats-TTL": FIRED_TTL,
            _EXPECTED: str(schedule.sequence),
            f"{_EXPECTED}-Subject": schedule.subject.decode(),
        }

        async def fired() -> int | None:
            """By this write, or by the clock."""
            return 0 if await self.find(schedule.subject) is None else None

        await self._decide(target, headers, schedule.data, fired)

    async def hand_over(self, subject: bytes, headers: dict[str, str], data: bytes) -> None:
        """Publish a job that carries its id where its queue takes what fired: on the queue's own subject anybody could.

        Args:
            subject: Where a job without an id would be published.
            headers: The job's own, its id among them.
            data: The job's body.

        Raises:
            ConnectionLost: If it is not known whether it was stored.
            JobError: `RunnerUnavailable`: it was not stored; `Validation`, if the server refuses it.
        """
        answer, _ = await self._publish(self._names.due(subject), {**headers, "Nats-TTL": FIRED_TTL}, data)
        _sequence(answer)

    async def _decide(
        self, subject: bytes, headers: dict[str, str], data: bytes, is_done: Callable[[], Awaitable[int | None]]
    ) -> int:
        """Publish what is to hold on one revision alone; its place in the stream.

        A refusal may be the answer to a copy of this very write, whose own answer was lost: `is_done` tells its place.
        """
        answer, was_lost = await self._publish(subject, headers, data)
        if (answer.get("error") or {}).get("err_code") in WRONG_REVISION:
            if was_lost and (place := await is_done()) is not None:
                return place
            raise ScheduleChanged
        return _sequence(answer)

    async def _publish(self, subject: bytes, headers: dict[str, str], data: bytes) -> tuple[dict[str, Any], bool]:
        """The server's answer, and whether an answer to the same publish was lost before."""
        block, was_lost = header_block(headers), False
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                reply = await self._connection.ask(subject, data, header=block, timeout=self._timeout)
            except NoResponders as error:
                if not await comes_back(self._connection, self._names.schedule_stream, deadline):
                    if was_lost:
                        raise ConnectionLost("NATS did not answer, and then no stream was there") from error
                    raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error
            except ConnectionLost:
                if was_lost:
                    raise
                was_lost = True
            else:
                return answer_of(reply), was_lost


def _sequence(answer: dict[str, Any]) -> int:
    error = answer.get("error")
    if error is not None:
        raise refusal(error)
    return int(answer["seq"])
