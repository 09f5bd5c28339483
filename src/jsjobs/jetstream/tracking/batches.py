"""The records of batches, beside the jobs' entries in the state bucket, and the progress of their jobs.

A record is the key `batch.<batch id>`. It is small, since the jobs of a list mostly lie next to each other in their
queue. A record too large for one message continues under `batch.<batch id>.1` and so on; these parts are written first.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from jsjobs.jetstream.api.errors import Refusal, api_error
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.messages import read_one
from jsjobs.jetstream.api.publish import answer_of
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.jobs.state_store import WRONG_REVISION, is_left_by_expiry
from jsjobs.jetstream.protocol.headers import UnreadableHeaders, parse_job_headers, value_of
from jsjobs.jetstream.protocol.job_ids import parse_plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.fired import fired_entries
from jsjobs.jetstream.schedules.store import ScheduleChanged, Schedules
from jsjobs.model.batch import MAX_IDS, BatchRecord, BatchRuns, BatchStatus, StatusCounts, ids_of, runs_of
from jsjobs.model.checks import checked_text, problems
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status, random_token, utc_now
from jsjobs.model.lanes import Queue
from jsjobs.model.payload import BATCH_ID

RUNS_PER_PART = 5_000
"""Runs in one part: 560 KB with the longest possible ids, well below the 1 MiB that a server takes."""
_OUTLIVES = 30 * 24 * 3600.0
"""Seconds that a record is kept beyond the jobs' own entries."""
_IN_FLIGHT = 128
LAG = 0.05
"""Seconds after which a replica has caught up with a record that was just written."""
_BATCH_ID = re.compile(BATCH_ID)

R = TypeVar("R", bound=BatchRuns)


class _Brief(BaseModel):
    """The part of an entry that is read here."""

    model_config = ConfigDict(frozen=True)

    status: Status
    batch_id: str | None = None


class Batches:
    """Write and read the batch records of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, result_ttl: float, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._ttl = int(result_ttl + _OUTLIVES)
        self._timeout = timeout

    async def record(self, batch_id: str, ids: Sequence[str], *, may_be_there: bool = False) -> None:
        """Store which jobs a list became, for as long as ended jobs are remembered, and 30 days more.

        Args:
            batch_id: The batch.
            ids: Its jobs, in the list's order.
            may_be_there: Whether somebody else may have used that id: its record then gets the jobs that it lacks.

        Raises:
            JobError: `RunnerUnavailable`, if the record could not be stored; `Validation`, if there are more than a
                million jobs.
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

        await settled(add, within=self._timeout, else_say=f"too many submits add to batch {batch_id} at once")

    async def _store(self, batch_id: str, ids: Sequence[str], created_at: datetime, expected: int | None) -> None:
        """Write a record, its first part last.

        Raises:
            ScheduleChanged: If its revision is not the expected one.
        """
        if len(ids) > MAX_IDS:
            raise JobError.from_validation(f"the record of a batch holds {MAX_IDS} jobs at most, not {len(ids)}")
        # Another process that writes a record of that id at the same time has parts of its own.
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
        except ConnectionLost:  # repeating the write is harmless
            reply = await self._connection.ask(subject, body, header=header, timeout=self._timeout)
        answer = answer_of(reply)
        if isinstance(answer, Refusal):
            if answer.err_code in WRONG_REVISION:
                raise ScheduleChanged
            raise api_error(answer, "writing the record of a batch")

    async def status(self, batch_id: str) -> BatchStatus:
        """Return how many of a batch's jobs have each status.

        Raises:
            JobError: `NotFound`, if it has no record; `RunnerUnavailable`, if the server cannot be reached;
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
        """Return all ids of a record, in their order."""
        batch_id, runs = record.batch_id, list(record.runs)
        for number in range(1, record.parts):
            runs += (await self._read(self._names.batch(record.more or batch_id, number), BatchRuns, batch_id)).runs
        if sum(int(run.partition(":")[2] or 1) for run in runs) != record.total:
            raise JobError.from_validation(f"the record of batch {batch_id} cannot be read: its parts do not match")
        return list(ids_of(runs))

    async def _find(self, batch_id: str) -> BatchRecord:
        if not _BATCH_ID.fullmatch(checked_text("a batch id", batch_id)):
            raise JobError.from_not_found(
                f"{batch_id[:120]!r} is not a batch id: the ids that a submit returns have it, as `ids[0].batch_id`"
            )
        subject = self._names.batch(batch_id)
        try:
            return await self._read(subject, BatchRecord, batch_id)
        except JobError as error:
            if error.is_transient:
                raise
            await asyncio.sleep(LAG)
            return await self._read(subject, BatchRecord, batch_id)

    async def _read(self, subject: bytes, kind: type[R], batch_id: str) -> R:
        revision, data = await self._look(subject)
        if revision == 0:
            raise JobError.from_not_found(f"batch {batch_id} is not known")
        if not data:
            raise JobError.from_not_found(f"batch {batch_id} is so old that nothing is known about it any more")
        return _parsed(kind, data, batch_id)

    async def _look(self, subject: bytes) -> tuple[int, bytes]:
        """Return the revision of a part, 0 if there is none, and its content, which is empty if it expired."""
        [reply] = await self._read_all([(self._names.state_stream, {"last_by_subj": subject.decode()})])
        sequence = value_of(reply.header, b"Nats-Sequence")
        return (0, b"") if sequence is None else (int(sequence), reply.data)

    # -- counting

    async def _count(self, ids: Sequence[str]) -> Counter[Status | None]:
        """Count the jobs by status; None counts those that expired or were never known."""
        counted: Counter[Status | None] = Counter()
        for start in range(0, len(ids), _IN_FLIGHT):
            some = ids[start : start + _IN_FLIGHT]
            known = await self._entries(some)
            unknown = [job_id for job_id in some if job_id not in known]
            waiting = await self._messages(unknown)
            # A job may have begun, and even ended, between the two reads.
            known |= await self._entries([job_id for job_id in unknown if job_id not in waiting])
            for job_id in some:
                brief = known.get(job_id)
                known_status = None if brief is None else brief.status
                counted[Status.QUEUED if job_id in waiting else known_status] += 1
        return counted

    async def of_jobs(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Return the batch of each job, as its status tells it; leave out unknown jobs.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached, or this user may not read them.
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
        """Read the jobs' entries; return None for an expired one, and leave out missing or deleted ones."""
        stream = self._names.state_stream
        replies = await self._read_all([(stream, {"last_by_subj": self._names.state(each).decode()}) for each in ids])
        return {
            job_id: _brief(reply.data, job_id) if reply.data else None
            for job_id, reply in zip(ids, replies, strict=True)
            if value_of(reply.header, b"Nats-Sequence") is not None and (reply.data or is_left_by_expiry(reply.header))
        }

    async def _messages(self, ids: Sequence[str]) -> set[str]:
        """Return the jobs that wait in their queues, as schedules, or on the way from a schedule to a queue."""
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

    def _place(self, place: tuple[Queue, int]) -> tuple[str, MessageRequest]:
        """Return the request for a job's message."""
        queue, sequence = place
        return self._names.queue(queue), {"seq": sequence}

    async def _read_all(self, requests: Sequence[tuple[str, MessageRequest]]) -> list[Reply]:
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
    """Return the batch that a message names."""
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
