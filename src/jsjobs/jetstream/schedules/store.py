"""Read and change schedules: messages on `<namespace>.at.>` that the server itself publishes when they are due.

One subject holds one schedule. Every change names the message on which it was decided, because the server removes a
schedule in the same write in which it fires. If a change is accepted after the server has read a schedule and before
that write, it is lost (docs/server-quirks.md#a-schedule-that-is-replaced-as-it-fires). `Overtaken` finds that out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from jsjobs.jetstream.api.errors import Refusal
from jsjobs.jetstream.api.lost_race import LostRace
from jsjobs.jetstream.api.messages import StoredMessage, find_at_leader, find_stored
from jsjobs.jetstream.api.publish import PubAck, answer_of, comes_back, refusal
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.jobs.state_store import WRONG_REVISION
from jsjobs.jetstream.protocol.headers import GIVEN_ID, header_block, parse_block
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.schedule import FIRED_TTL, TARGET, WRITER, Schedule, read_schedule
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token
from jsjobs.model.times import rfc3339

_LOOK_AGAIN = 0.03
_LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00Z")
_TOMBSTONE_TTL = "60s"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MAX_SCHEDULED = 892 * 1024
"""Maximum bytes of header and body of a schedule: less than a queue takes, since headers are added when it fires."""


class Overtaken:
    """Find out whether a schedule that was replaced around its due time fires all the same.

    If the server stored the new schedule before the old one was due, nothing was lost. Otherwise a marker tells: a
    schedule that is stored afterwards and due at once fires only when all those that the server had read before were
    published.
    """

    def __init__(self, connection: Connection, names: Names, subject: bytes, sequence: int, timeout: float) -> None:
        """Prepare the search for one replaced schedule.

        Args:
            connection: A connection to the server.
            names: The namespace.
            subject: The schedule's subject.
            sequence: The sequence of the message that replaced another one there.
            timeout: Seconds to wait for the marker.
        """
        self._connection = connection
        self._names = names
        self._subject = subject.decode()
        self._sequence = sequence
        self._timeout = timeout

    async def old_fires(self, due: datetime, headers: dict[str, str], took: float) -> bool:
        """Return whether the old schedule fired, or will fire, and removed the new one.

        Args:
            due: When the old one was due.
            headers: Its target, and those of its headers that stay when it fires and tell it from the new one.
            took: Seconds that the publish of the new one took: it was in place at most that long after its timestamp.

        Raises:
            JobError: `RunnerUnavailable`, if that cannot be found out.
        """
        # Any replica tells when it was stored, and most replaced schedules are not due for a long time.
        found = await find_stored(self._connection, self._names.schedule_stream, {"seq": self._sequence})
        if found is not None and found.stored_at + timedelta(seconds=took) < due:
            return False
        await self._until_published()
        standing = await self._get({"last_by_subj": self._subject})
        if standing is not None and standing.sequence >= self._sequence:
            return False
        return await self._was_published(headers.pop("Nats-Schedule-Target"), headers)

    async def _get(self, request: MessageRequest) -> StoredMessage | None:
        return await find_at_leader(self._connection, self._names.schedule_stream, request)

    async def _until_published(self) -> None:
        namespace, deadline = self._names.namespace, time.monotonic() + self._timeout
        marker = f"{namespace}.at.marker.{random_token()}"
        headers = {"Nats-Schedule": f"@at {rfc3339(_LONG_AGO)}", "Nats-Schedule-TTL": "10s"}
        headers["Nats-Schedule-Target"] = f"{namespace}.due.marker"
        reply = await self._connection.ask(marker.encode(), b"", header=header_block(headers), timeout=self._timeout)
        answer = answer_of(reply)
        if isinstance(answer, Refusal):
            raise refusal(answer)
        while await self._get({"last_by_subj": marker}) is not None:
            if time.monotonic() > deadline:
                raise JobError.from_runner_unavailable(
                    "the job was due at this moment, and it is not known whether it fired before: check its "
                    "status, and try again"
                )
            await asyncio.sleep(_LOOK_AGAIN)

    async def _was_published(self, target: str, headers: dict[str, str]) -> bool:
        wanted, after = {**headers, "Nats-Scheduler": self._subject}.items(), self._sequence
        while message := await self._get({"seq": after + 1, "next_by_subj": target}):
            if wanted <= dict(parse_block(message.header)).items():
                return True
            after = message.sequence
        return False


class ScheduleChanged(LostRace):
    """The schedule fired, or somebody else changed it, first."""

    def __init__(self) -> None:
        super().__init__("the schedule fired or was changed meanwhile")


class Schedules:
    """Read and change the schedules of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout

    async def find(self, subject: bytes) -> Schedule | None:
        """Return the message on a subject as some server of the cluster has it; the next write decides.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the stream cannot be reached; `Validation`, if the message
                there has headers that cannot be read.
        """
        try:
            request: MessageRequest = {"last_by_subj": subject.decode()}
            message = await find_stored(self._connection, self._names.schedule_stream, request)
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error
        return None if message is None else read_schedule(message)

    async def of_job(self, job_id: str) -> Schedule | None:
        """Return a delayed job's schedule or the trace of its removal; None if it fired, or never existed.

        Raises:
            JobError: As in `find`.
        """
        found = await self.find(self._names.schedule(job_id))
        return found if found is not None and found.job_id == job_id else None

    async def store(self, subject: bytes, headers: dict[str, str], data: bytes, *, expected: int | None = None) -> int:
        """Store a schedule on a subject, in place of the message there.

        Args:
            subject: The schedule's own subject.
            headers: All headers of the message.
            data: The job's body.
            expected: The sequence of the message it replaces, 0 for none; None: whatever is stored there.

        Returns:
            The sequence of the stored message.

        Raises:
            ScheduleChanged: If another message is stored there.
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
                f"the job is too large for a schedule ({size} bytes with its headers, the limit is {MAX_SCHEDULED}): "
                "nothing was queued"
            )

        async def own() -> int | None:
            found = await self.find(subject)
            return found.sequence if found is not None and found.headers.get(WRITER) == writer else None

        return await self._decide(subject, named, data, own)

    async def stored_at(self, sequence: int) -> datetime | None:
        """Return when a message was stored, or None if that is not known here yet, or not any more.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        found = await find_stored(self._connection, self._names.schedule_stream, {"seq": sequence})
        return None if found is None else found.stored_at

    async def replace(self, old: Schedule, headers: dict[str, str], data: bytes) -> None:
        """Replace a schedule that fires once, unless it fires first.

        Raises:
            ScheduleChanged: If the old one fired, or another is stored there by now.
            JobError: As in `store`.
        """
        began = time.monotonic()
        sequence = await self.store(old.subject, headers, data, expected=old.sequence)
        if old.due is not None:
            overtaken = Overtaken(self._connection, self._names, old.subject, sequence, self._timeout)
            own = {name: old.headers[name] for name in (TARGET, WRITER) if name in old.headers}
            if await overtaken.old_fires(old.due, own, time.monotonic() - began):
                raise ScheduleChanged

    async def remove(self, schedule: Schedule) -> None:
        """Remove a schedule, so that it never fires.

        Raises:
            ScheduleChanged: If it fired, or another is stored there by now.
            JobError: As in `store`.
        """
        kept = {GIVEN_ID: schedule.job_id} if schedule.job_id else {}
        gone = {**kept, "Nats-Rollup": "sub", "Nats-TTL": _TOMBSTONE_TTL}
        await self.store(schedule.subject, gone, b"", expected=schedule.sequence)

    async def fire(self, schedule: Schedule) -> None:
        """Publish a delayed job now, in place of its schedule and in the same write.

        Raises:
            ScheduleChanged: If it fired, or another is stored there by now.
            JobError: `Validation`, if no queue takes jobs from the subject of its target; as `store`.
        """
        target = schedule.headers.get(TARGET, "").encode()
        self._names.queue_of_due(target)  # a stranger may name any subject, and we have rights that it has not
        headers = schedule.own_headers | {
            "Nats-Scheduler": schedule.subject.decode(),
            "Nats-Schedule-Next": "purge",
            "Nats-TTL": FIRED_TTL,
            _EXPECTED: str(schedule.sequence),
            f"{_EXPECTED}-Subject": schedule.subject.decode(),
        }

        async def fired() -> int | None:
            """Return 0 if the schedule fired, by this write or by the clock."""
            return 0 if await self.find(schedule.subject) is None else None

        await self._decide(target, headers, schedule.data, fired)

    async def hand_over(self, subject: bytes, headers: dict[str, str], data: bytes) -> None:
        """Publish a job that carries its id where its queue takes fired jobs.

        On the queue's own subject anybody could publish such a job.

        Args:
            subject: The subject on which a job without an id would be published.
            headers: The job's own headers, its id among them.
            data: The job's body.

        Raises:
            ConnectionLost: If it is not known whether it was stored.
            JobError: `RunnerUnavailable`, if it was not stored; `Validation`, if the server refuses it.
        """
        answer, _ = await self._publish(self._names.due(subject), {**headers, "Nats-TTL": FIRED_TTL}, data)
        _sequence(answer)

    async def _decide(
        self, subject: bytes, headers: dict[str, str], data: bytes, is_done: Callable[[], Awaitable[int | None]]
    ) -> int:
        """Publish a message that is valid on one revision only, and return its sequence.

        A refusal may be the answer to a copy of this very write, whose own answer was lost: `is_done` then returns its
        sequence.
        """
        answer, was_lost = await self._publish(subject, headers, data)
        if isinstance(answer, Refusal) and answer.err_code in WRONG_REVISION:
            if was_lost and (place := await is_done()) is not None:
                return place
            raise ScheduleChanged
        return _sequence(answer)

    async def _publish(self, subject: bytes, headers: dict[str, str], data: bytes) -> tuple[PubAck | Refusal, bool]:
        """Publish a message, and return the server's answer and whether an earlier answer to it was lost."""
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


def _sequence(answer: PubAck | Refusal) -> int:
    if isinstance(answer, Refusal):
        raise refusal(answer)
    return answer.sequence
