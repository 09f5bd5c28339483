"""The state bucket: one entry per job, every write a compare-and-set. The entry's revision is the job's fence."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple, overload

from pydantic import ValidationError
from pydantic_core import from_json

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.errors import OVER_MAX_MSG_SIZE, InvalidResponse, LimitReached, Refusal, api_error
from jsjobs.jetstream.api.lost_race import LostRace
from jsjobs.jetstream.api.messages import place_of, read_at_leader, read_one
from jsjobs.jetstream.api.publish import answer_of
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import (
    ConnectionClosed,
    ConnectionLost,
    NoResponders,
    TooLargeForStream,
    Unanswered,
    Unstored,
)
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.jobs.blocked_writes import BlockedWrite, BlockedWrites, to_its_end
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.headers import value_of
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.checks import problems
from jsjobs.model.entry_text import EntryText
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, random_token

WRONG_REVISION = frozenset({10071, 10164})
"""The server's codes for a write whose revision is not the last one. The second comes from replicated streams only,
while the other write is still on its way to the replicas."""
_ACK = re.compile(rb'\{"stream": ?"[^"]*", ?"seq": ?([1-9][0-9]{0,18})[,}]')
_HEADER = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nJsjobs-Writer: %b-%x\r\n\r\n"
_EXPIRING = _HEADER[:-2] + b"Nats-TTL: %ds\r\n\r\n"
_PROVISIONAL = b"Jsjobs-Provisional"
_RETRY_EVERY = 0.05
_LAG = 0.25
"""Seconds after which a replica has surely caught up with a write that its leader reported."""
_NO_LEADER = 5.0
"""Seconds without any answer after which the bucket is taken for missing."""
_NO_MESSAGE = b"NATS/1.0 404"
_SHOWN = 80


class Conflict(LostRace):
    """Somebody else wrote the entry first."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the entry of {job_id} was changed by another process meanwhile", job_id=job_id)


class UnreadableEntry(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The value under a job's key is not an entry of this version; `status` is the status it gives, if any."""

    def __init__(self, subject: str, job_id: str, what: str, status: Status | None) -> None:
        then = "a worker or router that meets the job's message makes a dead letter of it"
        if status is not None and status.is_terminal:
            then = f"the job is {status}; another version of jsjobs may have written that"
        super().__init__(Reason.VALIDATION, f"the entry {subject} cannot be read: {what}; {then}", job_id=job_id)
        self.status = status


class Found(NamedTuple):
    """The value under a job's key."""

    value: JobStatusResponse | UnreadableEntry | None
    revision: int
    stored_at: datetime
    """When the server took the write, by the server's clock and no other."""
    writer: bytes | None
    expires: bool
    """Whether it has a time to live of its own: neither none nor a provisional one."""
    is_deleted: bool = False
    """Whether somebody deleted it before its time, as `nats kv del` does. Its job is then like one that nobody knows
    yet."""

    @property
    def entry(self) -> JobStatusResponse | None:
        """Return the entry, or None if it was deleted, or expired and left a marker for a while.

        Raises:
            UnreadableEntry: If it cannot be read.
        """
        if isinstance(self.value, UnreadableEntry):
            raise self.value
        return self.value

    @property
    def has_expired(self) -> bool:
        """Return whether the job ended so long ago that its entry is gone."""
        return self.value is None and not self.is_deleted

    @property
    def problem(self) -> UnreadableEntry | None:
        """Return why the entry cannot be read, or None if it can."""
        return self.value if isinstance(self.value, UnreadableEntry) else None

    @property
    def is_over(self) -> bool:
        """Return whether an unreadable entry says that nothing is left to do for its job, not even a letter."""
        status = None if self.problem is None else self.problem.status
        return status in {Status.COMPLETE, Status.CANCELLED} or (status is Status.FAILED and self.expires)


@dataclass(slots=True)
class _Again:
    """A write whose first try failed."""

    job_id: str
    subject: bytes
    body: bytes
    header: bytes
    expected: int
    writer: bytes
    was_read: bool = False
    """Whether the entry was read, and the write after that was not answered yet."""


class StateStore:
    """Read and write entries of jobs."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        *,
        blocked: BlockedWrites | None = None,
        is_torn_down: Callable[[], bool] = lambda: True,
    ) -> None:
        """Create a store that marks its writes with a token of its own.

        Args:
            connection: A connection to the server.
            names: The namespace.
            blocked: Keeps track of writes that wait for room; None: they are only logged.
            is_torn_down: Called when a write is cancelled; if it returns False, the write is completed all the same.
        """
        self.blocked = blocked or BlockedWrites()
        self._connection = connection
        self._is_torn_down = is_torn_down
        self._names = names
        self._direct = endpoints.subject(endpoints.direct_get(names.state_stream)).encode() + b"."
        self._token = random_token().encode()
        self._writes = itertools.count()

    async def read(self, job_id: str) -> Found | None:
        """Return the entry as some server of the cluster has it; a decision made on it is checked by the next write.

        An entry that cannot be read is returned too; its `entry` raises the reason.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        try:
            return await self._read(job_id)
        except NoResponders as error:
            raise _no_bucket(self._names) from error

    async def read_at_leader(self, job_id: str) -> Found | None:
        """Return the entry as `read` does, but as the bucket's leader has it and not a replica that lags behind.

        Raises:
            JobError: As in `read`.
        """
        request: MessageRequest = {"last_by_subj": self._names.state(job_id).decode()}
        try:
            return _found(await read_at_leader(self._connection, self._names.state_stream, request), job_id)
        except NoResponders as error:
            raise _no_bucket(self._names) from error

    async def _read(self, job_id: str) -> Found | None:
        subject = self._names.state(job_id)
        if self._connection.direct_gets_refused is None:
            with suppress(NotPermitted):
                return _found(await self._connection.ask(self._direct + subject, again=True), job_id)
        request: MessageRequest = {"last_by_subj": subject.decode()}
        return _found(await read_one(self._connection, self._names.state_stream, request), job_id)

    # A write without a bound needs the delivery to keep alive: it may wait for room for hours.
    @overload
    async def write(
        self, entry: JobStatusResponse | EntryText, *, expected: int, ttl: float | None = ..., delivery: Delivery
    ) -> int: ...

    @overload
    async def write(
        self,
        entry: JobStatusResponse | EntryText,
        *,
        expected: int,
        ttl: float | None = ...,
        provisional: bool = ...,
        within: float,
    ) -> int: ...

    async def write(
        self,
        entry: JobStatusResponse | EntryText,
        *,
        expected: int,
        ttl: float | None = None,
        provisional: bool = False,
        within: float | None = None,
        delivery: Delivery | None = None,
    ) -> int:
        """Write the entry if its revision is still the expected one (0: there is none yet).

        A lost acknowledgement is no lost race: the entry is read, and reading back one's own write is success. While
        the server cannot be reached, or has no room, the write is tried again.

        Args:
            entry: The entry to write.
            expected: The revision on which the decision was made.
            ttl: Seconds until the entry expires; None: never.
            provisional: Whether the entry will be written once more, with its own time to live. This time to live is
                for the case that whoever was about to write it dies.
            within: Seconds to keep trying after a failed first try; None: for ever.
            delivery: The delivery to keep alive while a write without a bound waits for room.

        Returns:
            The new revision.

        Raises:
            Conflict: If somebody else wrote first.
            ConnectionLost: If the server could not be reached in that time; the entry may have been written.
            LimitReached: If the server has no room for the entry, and `within` was given.
            JobError: `RunnerUnavailable` if the bucket does not exist; `Validation` if the entry is too large.
        """
        number = next(self._writes)
        if ttl is None:
            header = _HEADER % (expected, self._token, number)
        else:
            header = _EXPIRING % (expected, self._token, number, max(1, ttl))
            if provisional:
                header = b"%b%b: 1\r\n\r\n" % (header[:-2], _PROVISIONAL)
        subject = self._names.state(entry.job_id)
        body = entry.text if isinstance(entry, EntryText) else entry.to_json()
        try:
            return _revision(await self._connection.ask_soon(subject, body, header=header, once=True), entry.job_id)
        except (JobError, asyncio.CancelledError) as error:
            if self._is_final(error, within):
                raise
        again = _Again(entry.job_id, subject, body, header, expected, b"%b-%x" % (self._token, number))
        if within is None:
            write = partial(self._write_again, again, waits=True)
            return await to_its_end(write, self.blocked, delivery, self._is_torn_down)
        return await self._write_within(within, again)

    def _is_final(self, error: BaseException, within: float | None) -> bool:
        """Return whether a first try that failed with this error is not repeated."""
        match error:
            case ConnectionClosed():
                return True
            case LimitReached():
                return within is not None
            case JobError():
                return not error.is_transient
        return self._is_torn_down()

    async def _write_within(self, seconds: float, again: _Again) -> int:
        try:
            async with asyncio.timeout(seconds):
                with BlockedWrite(self.blocked, None) as blocked:
                    return await self._write_again(again, blocked, waits=False)
        except TimeoutError as error:
            if again.was_read:
                raise Unstored(self._names.state_stream) from error
            raise ConnectionLost("NATS could not be reached; the job's entry may still have been written") from error

    async def _write_again(self, again: _Again, blocked: BlockedWrite, *, waits: bool) -> int:
        unheard_since: float | None = None
        while True:
            try:
                return await self._look_and_write(again)
            except ConnectionClosed:
                raise
            except NoResponders as error:
                # A stream without a leader answers like this too, for a moment.
                unheard_since = unheard_since or time.monotonic()
                if time.monotonic() - unheard_since > _NO_LEADER:
                    raise _no_bucket(self._names) from error
            except LimitReached as error:
                if not waits:
                    raise
                await blocked.no_room(error.limit)
                continue
            except Unstored as error:
                await blocked.no_answer(error.message)
            except JobError as error:
                if not error.is_transient:
                    raise
            await asyncio.sleep(_RETRY_EVERY)

    async def _look_and_write(self, again: _Again) -> int:
        again.was_read = False
        found = await self._read(again.job_id)
        if found is not None and found.writer == again.writer:
            return found.revision
        # An older revision comes from a replica that lags behind: the stream itself must refuse then.
        if found is not None and found.revision > again.expected:
            raise Conflict(again.job_id)
        again.was_read = True
        try:
            return _revision(await self._connection.ask(again.subject, again.body, header=again.header), again.job_id)
        except Unanswered as error:
            raise Unstored(self._names.state_stream) from error
        except Conflict:
            # The refusal may be the answer to a copy of this very write that came through after all.
            await asyncio.sleep(_LAG)
            found = await self._read(again.job_id)
            if found is not None and found.writer == again.writer:
                return found.revision
            raise


def _revision(reply: Reply, job_id: str) -> int:
    data = reply.data
    acknowledged = _ACK.match(data)
    if acknowledged is not None:
        return int(acknowledged[1])
    answer = answer_of(reply)
    if not isinstance(answer, Refusal):
        raise InvalidResponse(data, f"writing the entry of {job_id}")
    if answer.err_code in WRONG_REVISION:
        raise Conflict(job_id)
    if answer.err_code == OVER_MAX_MSG_SIZE:
        raise TooLargeForStream
    raise api_error(answer, f"writing the entry of {job_id}")


def _found(reply: Reply, job_id: str) -> Found | None:
    header = reply.header
    if header.startswith(_NO_MESSAGE):
        return None
    place = place_of(header)
    if place is None:
        raise InvalidResponse(header, "reading an entry")
    revision, stored_at = place
    value = _value(reply, job_id) if reply.data else None
    writer, ttl = value_of(header, b"Jsjobs-Writer"), value_of(header, b"Nats-TTL")
    expires = ttl is not None and value_of(header, _PROVISIONAL) is None
    is_deleted = value is None and not is_left_by_expiry(header)
    return Found(value, revision, stored_at, writer, expires, is_deleted)


def is_left_by_expiry(header: bytes) -> bool:
    """Return whether a message without a value is the marker that nats-server leaves of an expired one.

    Otherwise somebody deleted it.
    """
    return value_of(header, b"Nats-Marker-Reason") == b"MaxAge"


def _value(reply: Reply, job_id: str) -> JobStatusResponse | UnreadableEntry:
    subject = (value_of(reply.header, b"Nats-Subject") or b"").decode("utf-8", "backslashreplace")
    try:
        entry = JobStatusResponse.model_validate_json(reply.data)
    except ValidationError as error:
        return UnreadableEntry(subject, job_id, problems(error), _status(reply.data))
    if entry.job_id != job_id:
        # A decision made on it would be written under the other job's key.
        return UnreadableEntry(subject, job_id, f"it belongs to another job, {entry.job_id[:_SHOWN]!r}", None)
    return entry


def _status(data: bytes) -> Status | None:
    """Return the status in a text that is not a complete entry."""
    try:
        return Status(from_json(data)["status"])
    except (ValueError, TypeError, LookupError):
        return None


def _no_bucket(names: Names) -> JobError:
    return JobError.from_runner_unavailable(f"the bucket {names.bucket!r} does not exist: run `jsjobs streams apply`")
