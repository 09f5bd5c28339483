"""The state bucket: one entry per job, every write compare-and-set. The entry's revision is the job's fence."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import ApiError, Garbled, read_answer
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed, ConnectionLost, NoResponders, TooLargeForStream
from jsjobs.jetstream.stored import place_of
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import value_of
from jsjobs.model.checks import problems
from jsjobs.model.entry_text import EntryText
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, random_token

WRONG_REVISION = frozenset({10071, 10164})
"""The server's codes for a write whose revision is not the last one; the second, of replicated streams only, where the
other write is still on its way to the replicas."""
_OVER_MAX_MSG_SIZE = 10054
_ACK = re.compile(rb'\{"stream": ?"[^"]*", ?"seq": ?([1-9][0-9]{0,18})[,}]')
_HEADER = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nJsjobs-Writer: %b-%x\r\n\r\n"
_EXPIRING = _HEADER[:-2] + b"Nats-TTL: %ds\r\n\r\n"
_RETRY_EVERY = 0.05
_LAG = 0.25
"""Seconds in which a replica has surely caught up with a write that its leader told of."""
_NO_LEADER = 5.0
"""Seconds without anybody who answers, after which the bucket is taken for missing."""
_NO_MESSAGE = b"NATS/1.0 404"


class Conflict(JobError):  # noqa: N818 - the compare-and-set term
    """Somebody else wrote the entry first: read it again and decide anew."""

    def __init__(self, job_id: str) -> None:
        super().__init__("Processing", f"the entry of {job_id} was written by somebody else meanwhile", job_id=job_id)


class Found(NamedTuple):
    """An entry, or the marker that an expired or deleted one leaves behind for a while (`entry` is None then)."""

    entry: JobStatusResponse | None
    revision: int
    stored_at: datetime
    """When the server took the write: its clock, nobody else's."""
    writer: bytes | None
    expires: bool
    """Whether it has a time to live."""


class StateStore:
    """Reads and writes entries."""

    def __init__(
        self, connection: Connection, names: Names, *, is_torn_down: Callable[[], bool] = lambda: True
    ) -> None:
        """Read and write with a token of its own.

        Args:
            connection: To the server.
            names: The namespace.
            is_torn_down: Asked when a write is cancelled: where this says no, it is brought to its end all the same.
        """
        self._connection = connection
        self._is_torn_down = is_torn_down
        self._names = names
        self._direct = f"$JS.API.DIRECT.GET.{names.state_stream}.".encode()
        self._token = random_token().encode()
        self._writes = itertools.count()

    async def read(self, job_id: str) -> Found | None:
        """The entry as some server of the cluster has it; what is decided on it is decided by the next write.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        try:
            return await self._read(job_id)
        except NoResponders:
            raise _no_bucket(self._names) from None

    async def _read(self, job_id: str) -> Found | None:
        return _found(await self._connection.ask(self._direct + self._names.state(job_id)))

    async def write(
        self,
        entry: JobStatusResponse | EntryText,
        *,
        expected: int,
        ttl: float | None = None,
        within: float | None = None,
    ) -> int:
        """Write the entry if its revision is still the expected one (0: there is none yet).

        A lost acknowledgement is no lost race: the entry is read, and reading back one's own write is success. While
        the server cannot be reached it tries on.

        Args:
            entry: What to write.
            expected: The revision the decision was made on.
            ttl: Seconds until the entry expires; None: never.
            within: Seconds to try on, once a first try has failed; None: for ever.

        Returns:
            The new revision.

        Raises:
            Conflict: If somebody else wrote first.
            ConnectionLost: If the server could not be reached in that time; the entry may have been written.
            JobError: `RunnerUnavailable` if the bucket does not exist; `Validation` if the entry is too large.
        """
        number = next(self._writes)
        if ttl is None:
            header = _HEADER % (expected, self._token, number)
        else:
            header = _EXPIRING % (expected, self._token, number, max(1, ttl))
        subject = self._names.state(entry.job_id)
        body = entry.text if isinstance(entry, EntryText) else entry.to_json()
        try:
            return _revision(await self._connection.ask_soon(subject, body, header=header, once=True), entry.job_id)
        except ConnectionClosed:
            raise
        except JobError as error:
            if not error.is_transient:
                raise
        except asyncio.CancelledError:
            if self._is_torn_down():
                raise
        what = entry.job_id, subject, body, header, expected, b"%b-%x" % (self._token, number)
        if within is None:
            return await self._write_at_last(*what)
        try:
            async with asyncio.timeout(within):
                return await self._write_again(*what)
        except TimeoutError:
            raise ConnectionLost("NATS could not be reached; the job's entry may yet have been written") from None

    async def _write_at_last(
        self, job_id: str, subject: bytes, body: bytes, header: bytes, expected: int, writer: bytes
    ) -> int:
        """As `_write_again`, once more where something cancels it that is not the end of the whole event loop."""
        while True:
            try:
                return await self._write_again(job_id, subject, body, header, expected, writer)
            except asyncio.CancelledError:
                if self._is_torn_down():
                    raise

    async def _write_again(
        self, job_id: str, subject: bytes, body: bytes, header: bytes, expected: int, writer: bytes
    ) -> int:
        unanswered_since: float | None = None
        while True:
            try:
                return await self._look_and_write(job_id, subject, body, header, expected, writer)
            except ConnectionClosed:
                raise
            except NoResponders:
                # A stream without a leader answers so too, for a moment.
                unanswered_since = unanswered_since or time.monotonic()
                if time.monotonic() - unanswered_since > _NO_LEADER:
                    raise _no_bucket(self._names) from None
            except JobError as error:
                if not error.is_transient:
                    raise
            await asyncio.sleep(_RETRY_EVERY)

    async def _look_and_write(
        self, job_id: str, subject: bytes, body: bytes, header: bytes, expected: int, writer: bytes
    ) -> int:
        found = await self._read(job_id)
        if found is not None and found.writer == writer:
            return found.revision
        # An older revision is a replica's that lags behind: the stream itself must refuse then.
        if found is not None and found.revision > expected:
            raise Conflict(job_id)
        try:
            return _revision(await self._connection.ask(subject, body, header=header), job_id)
        except Conflict:
            # The refusal may be the answer to a copy of this very write that came through after all.
            await asyncio.sleep(_LAG)
            found = await self._read(job_id)
            if found is not None and found.writer == writer:
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
    if error.get("err_code") == _OVER_MAX_MSG_SIZE:
        raise TooLargeForStream
    raise ApiError(error, f"writing the entry of {job_id}")


def _found(reply: Reply) -> Found | None:
    header = reply.header
    if header.startswith(_NO_MESSAGE):
        return None
    place = place_of(header)
    if place is None:
        raise Garbled(header, "reading an entry")
    revision, stored_at = place
    entry = None
    if reply.data:
        try:
            entry = JobStatusResponse.model_validate_json(reply.data)
        except ValidationError as error:
            raise _unreadable(header, error) from None
    writer, ttl = value_of(header, b"Jsjobs-Writer"), value_of(header, b"Nats-TTL")
    return Found(entry, revision, stored_at, writer, ttl is not None)


def _unreadable(header: bytes, error: ValidationError) -> JobError:
    subject = (value_of(header, b"Nats-Subject") or b"").decode("utf-8", "backslashreplace")
    return JobError.from_validation(f"the entry {subject} cannot be read: {problems(error)}")


def _no_bucket(names: Names) -> JobError:
    return JobError.from_runner_unavailable(f"the bucket {names.bucket!r} does not exist: run `jsjobs streams apply`")
