"""The state bucket: one entry per job, every write compare-and-set. The entry's revision is the job's fence."""

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

from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import OVER_MAX_MSG_SIZE, Garbled, LimitReached, api_error, read_answer
from jsjobs.jetstream.blocked_writes import BlockedWrite, BlockedWrites, to_its_end
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.errors import (
    ConnectionClosed,
    ConnectionLost,
    NoResponders,
    TooLargeForStream,
    Unanswered,
    Unstored,
)
from jsjobs.jetstream.reading import read_at_leader, read_one
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.stored import place_of
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import value_of
from jsjobs.model.checks import problems
from jsjobs.model.entry_text import EntryText
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, random_token

WRONG_REVISION = frozenset({10071, 10164})
"""The server's codes for a write whose revision is not the last one; the second, of replicated streams only, where the
other write is still on its way to the replicas."""
_ACK = re.compile(rb'\{"stream": ?"[^"]*", ?"seq": ?([1-9][0-9]{0,18})[,}]')
_HEADER = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nJsjobs-Writer: %b-%x\r\n\r\n"
_EXPIRING = _HEADER[:-2] + b"Nats-TTL: %ds\r\n\r\n"
_PROVISIONAL = b"Jsjobs-Provisional"
_RETRY_EVERY = 0.05
_LAG = 0.25
"""Seconds in which a replica has surely caught up with a write that its leader told of."""
_NO_LEADER = 5.0
"""Seconds without anybody who answers, after which the bucket is taken for missing."""
_NO_MESSAGE = b"NATS/1.0 404"
_SHOWN = 80


class Conflict(JobError):  # noqa: N818 - the compare-and-set term
    """Somebody else wrote the entry first: read it again and decide anew."""

    def __init__(self, job_id: str) -> None:
        super().__init__("Processing", f"the entry of {job_id} was written by somebody else meanwhile", job_id=job_id)


class UnreadableEntry(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """What stands under a job's key is no entry of this version; `status` is what it says of that, if it says one."""

    def __init__(self, subject: str, job_id: str, what: str, status: Status | None) -> None:
        then = "a worker or router that meets the job's message makes a dead letter of it"
        if status is not None and status.is_terminal:
            then = f"the job is {status}; another version of jsjobs may have written that"
        super().__init__(Reason.VALIDATION, f"the entry {subject} cannot be read: {what}; {then}", job_id=job_id)
        self.status = status


class Found(NamedTuple):
    """What stands under a job's key."""

    value: JobStatusResponse | UnreadableEntry | None
    revision: int
    stored_at: datetime
    """When the server took the write: its clock, nobody else's."""
    writer: bytes | None
    expires: bool
    """Whether it has its own time to live: not none, nor a provisional one."""
    is_deleted: bool = False
    """Whether somebody deleted it before its time, as `nats kv del` does: its job is as one that nobody knows yet."""

    @property
    def entry(self) -> JobStatusResponse | None:
        """The entry; None for what one leaves behind: one that expired, for a while, or that was deleted.

        Raises:
            UnreadableEntry: If it cannot be read.
        """
        if isinstance(self.value, UnreadableEntry):
            raise self.value
        return self.value

    @property
    def has_expired(self) -> bool:
        """Whether the job ended so long ago that its entry is gone."""
        return self.value is None and not self.is_deleted

    @property
    def problem(self) -> UnreadableEntry | None:
        """Why the entry cannot be read; None where it can."""
        return self.value if isinstance(self.value, UnreadableEntry) else None

    @property
    def is_over(self) -> bool:
        """Whether an entry that cannot be read says of its job that nothing is left to do, no letter either."""
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
    """Whether the entry was read, and the write that followed was not answered yet."""


class StateStore:
    """Reads and writes entries."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        *,
        blocked: BlockedWrites | None = None,
        is_torn_down: Callable[[], bool] = lambda: True,
    ) -> None:
        """Read and write with a token of its own.

        Args:
            connection: To the server.
            names: The namespace.
            blocked: Where writes that wait for room are told of; None: in the log alone.
            is_torn_down: Asked when a write is cancelled: where this says no, it is brought to its end all the same.
        """
        self.blocked = blocked or BlockedWrites()
        self._connection = connection
        self._is_torn_down = is_torn_down
        self._names = names
        self._direct = f"$JS.API.DIRECT.GET.{names.state_stream}.".encode()
        self._token = random_token().encode()
        self._writes = itertools.count()

    async def read(self, job_id: str) -> Found | None:
        """The entry as some server of the cluster has it; what is decided on it is decided by the next write.

        One that cannot be read is found too: whoever asks for its `entry` is told why not.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        try:
            return await self._read(job_id)
        except NoResponders as error:
            raise _no_bucket(self._names) from error

    async def read_at_leader(self, job_id: str) -> Found | None:
        """As `read`, but as the bucket's leader has it: no replica that lags behind.

        Raises:
            JobError: As `read`.
        """
        request = {"last_by_subj": self._names.state(job_id).decode()}
        try:
            return _found(await read_at_leader(self._connection, self._names.state_stream, request), job_id)
        except NoResponders as error:
            raise _no_bucket(self._names) from error

    async def _read(self, job_id: str) -> Found | None:
        subject = self._names.state(job_id)
        if self._connection.direct_gets_refused is None:
            with suppress(NotPermitted):
                return _found(await self._connection.ask(self._direct + subject, again=True), job_id)
        request = {"last_by_subj": subject.decode()}
        return _found(await read_one(self._connection, self._names.state_stream, request), job_id)

    # Who gives no bound says which delivery is kept alive: a write may wait for room for hours.
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
        the server cannot be reached, or has no room for it, it tries on.

        Args:
            entry: What to write.
            expected: The revision the decision was made on.
            ttl: Seconds until the entry expires; None: never.
            provisional: Whether it is to be written once more, with its own time to live; this one is for the case that
                whoever was about to do so dies.
            within: Seconds to try on, once a first try has failed; None: for ever.
            delivery: What is kept alive while a write without a bound waits for room.

        Returns:
            The new revision.

        Raises:
            Conflict: If somebody else wrote first.
            ConnectionLost: If the server could not be reached in that time; the entry may have been written.
            LimitReached: If the server has no room for it, and `within` was given.
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
        """Whether a first try that failed so is not followed by another."""
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
            raise ConnectionLost("NATS could not be reached; the job's entry may yet have been written") from error

    async def _write_again(self, again: _Again, blocked: BlockedWrite, *, waits: bool) -> int:
        unheard_since: float | None = None
        while True:
            try:
                return await self._look_and_write(again)
            except ConnectionClosed:
                raise
            except NoResponders as error:
                # A stream without a leader answers so too, for a moment.
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
        # An older revision is a replica's that lags behind: the stream itself must refuse then.
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
    error = read_answer(data, f"writing the entry of {job_id}").get("error")
    if error is None:
        raise Garbled(data, f"writing the entry of {job_id}")
    if error.get("err_code") in WRONG_REVISION:
        raise Conflict(job_id)
    if error.get("err_code") == OVER_MAX_MSG_SIZE:
        raise TooLargeForStream
    raise api_error(error, f"writing the entry of {job_id}")


def _found(reply: Reply, job_id: str) -> Found | None:
    header = reply.header
    if header.startswith(_NO_MESSAGE):
        return None
    place = place_of(header)
    if place is None:
        raise Garbled(header, "reading an entry")
    revision, stored_at = place
    value = _value(reply, job_id) if reply.data else None
    writer, ttl = value_of(header, b"Jsjobs-Writer"), value_of(header, b"Nats-TTL")
    expires = ttl is not None and value_of(header, _PROVISIONAL) is None
    is_deleted = value is None and not is_left_by_expiry(header)
    return Found(value, revision, stored_at, writer, expires, is_deleted)


def is_left_by_expiry(header: bytes) -> bool:
    """Whether a message without a value is what nats-server leaves of one that expired; else somebody deleted it."""
    return value_of(header, b"Nats-Marker-Reason") == b"MaxAge"


def _value(reply: Reply, job_id: str) -> JobStatusResponse | UnreadableEntry:
    subject = (value_of(reply.header, b"Nats-Subject") or b"").decode("utf-8", "backslashreplace")
    try:
        entry = JobStatusResponse.model_validate_json(reply.data)
    except ValidationError as error:
        return UnreadableEntry(subject, job_id, problems(error), _status(reply.data))
    if entry.job_id != job_id:
        # What is decided on it would be written under the other's key.
        return UnreadableEntry(subject, job_id, f"it is of another job, {entry.job_id[:_SHOWN]!r}", None)
    return entry


def _status(data: bytes) -> Status | None:
    """What a text says that is no whole entry."""
    try:
        return Status(from_json(data)["status"])
    except (ValueError, TypeError, LookupError):
        return None


def _no_bucket(names: Names) -> JobError:
    return JobError.from_runner_unavailable(f"the bucket {names.bucket!r} does not exist: run `jsjobs streams apply`")
