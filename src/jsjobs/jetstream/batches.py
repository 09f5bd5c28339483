"""The record of a batch, beside the jobs' entries in the state bucket, and how far its jobs are.

The record is the key `batch.<batch id>`: small, since a list's jobs mostly stand one behind the other in their queue.
One too large for a message goes on under `batch.<batch id>.1` and so on, written first.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from jsjobs.jetstream.acknowledgements import answer_of
from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import api_error
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.fired import fired_entries
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.reading import read_one
from jsjobs.jetstream.schedules import ScheduleChanged, Schedules
from jsjobs.jetstream.settled import settled
from jsjobs.jetstream.state import WRONG_REVISION, is_left_by_expiry
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import UnreadableHeaders, parse_job_headers, value_of
from jsjobs.model.batch import MAX_IDS, BatchRecord, BatchRuns, BatchStatus, StatusCounts, ids_of, runs_of
from jsjobs.model.checks import checked_text, problems
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, Status, random_token, utc_now
from jsjobs.model.payload import BATCH_ID

RUNS_PER_PART = 5_000
"""560 KB of the longest ids there can be, and well below the 1 MiB that a server takes."""
_OUTLIVES = 30 * 24 * 3600.0
"""Seconds that a record is kept for longer than the jobs' own entries."""
_IN_FLIGHT = 128
_LAG = 0.05
"""Seconds in which a replica has caught up with a record that was written just now."""
_BATCH_ID = re.compile(BATCH_ID)

R = TypeVar("R", bound=BatchRuns)


class _Brief(BaseModel):
    """What of an entry is looked at."""

    model_config = ConfigDict(frozen=True)

    status: Status
    batch_id: str | None = None


class Batches:
    """Writes and reads the records of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, result_ttl: float, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._ttl = int(result_ttl + _OUTLIVES)
        self._timeout = timeout

    async def record(self, batch_id: str, ids: Sequence[str], *, may_be_there: bool = False) -> None:
        """Keep which jobs a list became; for as long as ended jobs are remembered, and 30 days more.

        Args:
            batch_id: The batch.
            ids: Its jobs, in the list's order.
            may_be_there: Whether somebody else may have used that id: a record of it gets those that it lacks.

        Raises:
            JobError: `RunnerUnavailable`, if that could not be stored; `Validation`, if they are more than a million.
        """
        if not may_be_there:
            await self._store(batch_id, ids, utc_now(), None)
            return

        async def add() -> None:
            revision, data = await self._look(self._names.batch(batch_id))
            record = _parsed(BatchRecord, data, batch_id) if data else None
            known = [] if record is None else await self._ids(record)
            have = set(known)
            more = [job_id for job_id in dict.fromkeys(ids) if job_id not in have]
            if more or record is None:
                created_at = utc_now() if record is None else record.created_at
                await self._store(batch_id, [*known, *more], created_at, revision)

        await settled(add, within=self._timeout, else_say=f"others add to batch {batch_id} all the time")

    async def _store(self, batch_id: str, ids: Sequence[str], created_at: datetime, expected: int | None) -> None:
        """Write a record, its first part last.

        Raises:
            ScheduleChanged: If its revision is another than the one that is expected.
        """
        if len(ids) > MAX_IDS:
            raise JobError.from_validation(f"of {len(ids)} jobs no record is kept, of {MAX_IDS} at most")
        # Whoever else writes one of that id at the same time has parts of their own.
        more = None if expected is None else random_token()
        runs = runs_of(ids)
        parts = [runs[start : start + RUNS_PER_PART] for start in range(0, len(runs), RUNS_PER_PART)] or [[]]
        for number, part in enumerate(parts[1:], 1):
            await self._write(self._names.batch(more or batch_id, number), BatchRuns(runs=tuple(part)))
        first = BatchRecord(
            batch_id=batch_id,
            created_at=created_at,
            total=len(ids),
            parts=len(parts),
            more=more,
            runs=tuple(parts[0]),
        )
        await self._write(self._names.batch(batch_id), first, expected)

    async def _write(self, subject: bytes, content: BatchRuns, expected: int | None = None) -> None:
        header = b"NATS/1.0\r\nNats-TTL: %ds\r\n" % self._ttl
        if expected is not None:
            header += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
        header += b"\r\n"
        body = content.model_dump_json().encode()
        try:
            reply = await self._connection.ask(subject, body, header=header, timeout=self._timeout)
        except ConnectionLost:  # the same once more does no harm
            reply = await self._connection.ask(subject, body, header=header, timeout=self._timeout)
        answer = answer_of(reply)
        if "error" in answer:
            if answer["error"].get("err_code") in WRONG_REVISION:
                raise ScheduleChanged
            raise api_error(answer["error"], "writing the record of a batch")

    async def status(self, batch_id: str) -> BatchStatus:
        """How far a batch is.

        Raises:
            JobError: `NotFound`, if no record of it is there; `RunnerUnavailable`, if the server cannot be reached;
                `Validation`, if the record, or a job's entry, is not what this library writes.
        """
        record = await self._find(batch_id)
        ids = tuple(await self._ids(record))
        counted = await self._count(ids)
        return BatchStatus(
            batch_id=batch_id,
            created_at=record.created_at,
            total=record.total,
            counts=StatusCounts({status: counted[status] for status in Status}),
            expired=counted[None],
            ids=ids,
        )

    async def _ids(self, record: BatchRecord) -> list[str]:
        """All ids of a record, in their order."""
        batch_id, runs = record.batch_id, list(record.runs)
        for number in range(1, record.parts):
            runs += (await self._read(self._names.batch(record.more or batch_id, number), BatchRuns, batch_id)).runs
        if sum(int(run.partition(":")[2] or 1) for run in runs) != record.total:
            raise JobError.from_validation(f"the record of batch {batch_id} cannot be read: its parts do not fit")
        return list(ids_of(runs))

    async def _find(self, batch_id: str) -> BatchRecord:
        if not _BATCH_ID.fullmatch(checked_text("a batch id", batch_id)):
            raise JobError.from_not_found(
                f"{batch_id[:120]!r} is no batch id: a list's ids know it (`ids[0].batch_id`), and so does the submit"
            )
        subject = self._names.batch(batch_id)
        try:
            return await self._read(subject, BatchRecord, batch_id)
        except JobError as error:
            if error.is_transient:
                raise
            await asyncio.sleep(_LAG)
            return await self._read(subject, BatchRecord, batch_id)

    async def _read(self, subject: bytes, kind: type[R], batch_id: str) -> R:
        revision, data = await self._look(subject)
        if revision == 0:
            raise JobError.from_not_found(f"no batch {batch_id} is known")
        if not data:
            raise JobError.from_not_found(f"batch {batch_id} is so old that nothing is known of it any more")
        return _parsed(kind, data, batch_id)

    async def _look(self, subject: bytes) -> tuple[int, bytes]:
        """The revision of a part, 0 where there is none, and what it says; nothing, where it expired."""
        [reply] = await self._read_all([(self._names.state_stream, {"last_by_subj": subject.decode()})])
        sequence = value_of(reply.header, b"Nats-Sequence")
        return (0, b"") if sequence is None else (int(sequence), reply.data)

    # -- counting

    async def _count(self, ids: Sequence[str]) -> Counter[Status | None]:
        """How many jobs have each status; None: expired, or never known."""
        counted: Counter[Status | None] = Counter()
        for start in range(0, len(ids), _IN_FLIGHT):
            some = ids[start : start + _IN_FLIGHT]
            known = await self._entries(some)
            unknown = [job_id for job_id in some if job_id not in known]
            waiting = await self._messages(unknown)
            # A job may have begun, and even ended, between the two looks.
            known |= await self._entries([job_id for job_id in unknown if job_id not in waiting])
            for job_id in some:
                brief = known.get(job_id)
                known_status = None if brief is None else brief.status
                counted[Status.QUEUED if job_id in waiting else known_status] += 1
        return counted

    async def of_jobs(self, ids: Sequence[str]) -> dict[str, str | None]:
        """The batch of each job, as its status tells it; what nothing is known of is left out.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached, or this user may not look.
        """
        found: dict[str, str | None] = {}
        for start in range(0, len(ids), _IN_FLIGHT):
            some = ids[start : start + _IN_FLIGHT]
            known = await self._entries(some)
            found |= {job_id: brief.batch_id for job_id, brief in known.items() if brief is not None}
            # A job that nobody has begun has no entry.
            unknown = [(job_id, place) for job_id in some if job_id not in known and (place := parse_plain_id(job_id))]
            replies = await self._read_all([self._place(place) for _, place in unknown])
            found |= {
                job_id: _batch_in(reply.header)
                for (job_id, _), reply in zip(unknown, replies, strict=True)
                if value_of(reply.header, b"Nats-Sequence") is not None
            }
        return found

    async def _entries(self, ids: Sequence[str]) -> dict[str, _Brief | None]:
        """What is kept of those that have an entry; None where it has expired. A deleted one tells nothing."""
        stream = self._names.state_stream
        replies = await self._read_all([(stream, {"last_by_subj": self._names.state(each).decode()}) for each in ids])
        return {
            job_id: _brief(reply.data, job_id) if reply.data else None
            for job_id, reply in zip(ids, replies, strict=True)
            if value_of(reply.header, b"Nats-Sequence") is not None and (reply.data or is_left_by_expiry(reply.header))
        }

    async def _messages(self, ids: Sequence[str]) -> set[str]:
        """Those whose messages are still in their queues, or that have a schedule or are on the way from it."""
        places = [(job_id, place) for job_id in ids if (place := parse_plain_id(job_id)) is not None]
        replies = await self._read_all([self._place(place) for _, place in places])
        there = {
            job_id
            for (job_id, _), reply in zip(places, replies, strict=True)
            if value_of(reply.header, b"Nats-Sequence") is not None
        }
        given = [job_id for job_id in ids if parse_plain_id(job_id) is None]
        schedules = Schedules(self._connection, self._names, timeout=self._timeout)
        found = await asyncio.gather(*(schedules.of_job(job_id) for job_id in given))
        there |= {job_id for job_id, one in zip(given, found, strict=True) if one is not None and one.is_live}
        if fired := [job_id for job_id in given if job_id not in there]:
            there |= (await fired_entries(self._connection, self._names, fired)).keys()
        return there

    def _place(self, place: tuple[Priority, int]) -> tuple[str, dict[str, Any]]:
        """The question for a job's message."""
        priority, sequence = place
        return self._names.stream(priority), {"seq": sequence}

    async def _read_all(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Reply]:
        asked = [read_one(self._connection, *request, timeout=self._timeout) for request in requests]
        try:
            return await asyncio.gather(*asked)
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error


def _brief(data: bytes, job_id: str) -> _Brief:
    try:
        return _Brief.model_validate_json(data)
    except ValidationError as error:
        text = f"the entry of {job_id} cannot be read: {problems(error)}"
        raise JobError.from_validation(text, cause=error) from None


def _batch_in(header: bytes) -> str | None:
    """The batch that a message names."""
    try:
        return parse_job_headers(header).batch_id
    except UnreadableHeaders as error:
        return error.readable.batch_id


def _parsed(kind: type[R], data: bytes, batch_id: str) -> R:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        text = f"the record of batch {batch_id} cannot be read: {problems(error)}"
        raise JobError.from_validation(text, cause=error) from None
