"""Submitting jobs that are not due yet: a schedule each, and an entry that tells of the job from then on.

The schedule comes first: an entry alone would be a job that never comes. A dedupe key is noted in the same atomic batch
as the schedule, so that neither is ever there without the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.acknowledgements import refusal, unknown
from jsjobs.jetstream.atomic import MAX_BATCH, send_batch
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.incoming import given_entry
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.schedule import delayed
from jsjobs.jetstream.schedules import MAX_SCHEDULED, ScheduleChanged, Schedules
from jsjobs.jetstream.settled import settled
from jsjobs.jetstream.state import WRONG_REVISION, Conflict, StateStore
from jsjobs.jetstream.stored import find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, MSG_ID, header_block, parse_job_headers
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, random_token, utc_now
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.publishing")

_ENTRIES_IN_FLIGHT = 512
_BATCHES_IN_FLIGHT = 32
"""Fewer than the 50 that a stream of nats-server 2.15 lets begin before one of them is complete."""
_OF_A_SCHEDULE = 320
"""Bytes that the headers of a schedule and of its batch add, beside its subject, at most."""
_GIVE_A_KEY = "give it a dedupe_key to make submitting it again safe"


class DelayedJob(NamedTuple):
    """A job, and when it is due."""

    job: Outgoing
    due: datetime


class Named(NamedTuple):
    """A delayed job under the id it was given."""

    job_id: str
    key: str | None
    """The dedupe key's digest."""
    schedule: Outgoing
    entry: JobStatusResponse


def named(names: Names, delayed_job: DelayedJob, job_id: str) -> Named:
    """A delayed job under an id: its schedule, and the entry that tells of it.

    Args:
        names: The namespace.
        delayed_job: The job.
        job_id: The id it is given.
    """
    job, due = delayed_job
    own = {name: value for name, value in job.headers.items() if name != MSG_ID} | {GIVEN_ID: job_id}
    priority, job_type = names.queue_of_due(names.due(job.subject))
    headers = parse_job_headers(header_block(own))
    entry = given_entry(job_id, job_type, priority, headers, utc_now(), scheduled_for=due)
    key = job.headers.get(MSG_ID)
    schedule = Outgoing(names.schedule(job_id), job.data, delayed(names, job.subject, own, due))
    return Named(job_id, None if key is None else digest(key), schedule, entry)


def digest(key: str) -> str:
    """A key as a part of a subject, 32 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Delayed:
    """Submits delayed jobs of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float, duplicate_window: float) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._window = f"{max(1, math.ceil(duplicate_window))}s"
        self._schedules = Schedules(connection, names, timeout=timeout)
        self._state = StateStore(connection, names)

    @property
    def stream(self) -> str:
        """The stream that holds them."""
        return self._names.schedule_stream

    def misfit(self, job: Outgoing) -> str | None:
        """Why a job of a list cannot be scheduled, if it is too large for that; None, if it is not."""
        size = len(header_block(job.headers)) + len(job.data) + len(job.subject) + _OF_A_SCHEDULE
        limit = min(MAX_SCHEDULED, self._connection.max_payload)
        return None if size <= limit else f"{size} bytes with its headers, {limit} are taken"

    async def submit(self, delayed_job: DelayedJob) -> JobId:
        """Schedule one job; its id, valid from now on.

        Raises:
            JobError: `RunnerUnavailable`, if the stream does not exist or cannot be reached (the message says whether
                the job may have been scheduled); `Validation` if it is too large.
        """
        one = named(self._names, delayed_job, _new_id())
        receipt = await self._store(one)
        if not receipt.duplicate:
            await self._write_entry(one.entry)
        return receipt

    async def submit_list(
        self,
        jobs: Sequence[DelayedJob],
        receipts: list[JobId],
        on_queued: Callable[[int], None] | None = None,
    ) -> None:
        """Schedule a list: all or nothing up to 1,000 jobs, 500 with dedupe keys, in chunks of that above.

        Args:
            jobs: The jobs.
            receipts: Each chunk's ids are added here as soon as it is scheduled.
            on_queued: Called with the number of receipts after each chunk.

        Raises:
            JobError: As `submit`.
        """
        size = MAX_BATCH // 2 if any(MSG_ID in each.job.headers for each in jobs) else MAX_BATCH
        for start in range(0, len(jobs), size):
            chunk = [named(self._names, each, _new_id()) for each in jobs[start : start + size]]
            stored = await self._store_chunk(chunk)
            receipts += stored
            new = [one.entry for one, receipt in zip(chunk, stored, strict=True) if not receipt.duplicate]
            await _in_groups(self._write_entry, new, _ENTRIES_IN_FLIGHT)
            if on_queued is not None:
                on_queued(len(receipts))

    def _with_key(self, one: Named) -> list[Outgoing]:
        if one.key is None:
            return [one.schedule]
        headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": self._window}
        return [Outgoing(self._names.schedule_key(one.key), one.job_id.encode(), headers), one.schedule]

    # -- storing

    async def _store(self, one: Named) -> JobId:
        """Store one job and its key, or find the job that has the key."""
        if one.key is None:
            schedule = one.schedule
            try:
                await self._schedules.store(schedule.subject, schedule.headers, schedule.data)
            except ConnectionLost as error:
                raise unknown(error, _GIVE_A_KEY) from error
            return JobId(one.job_id)
        key, text = one.key, "the dedupe_key is taken, by which job could not be read: submit again"

        async def put() -> JobId:
            if await self._send(self._with_key(one)):
                return JobId(one.job_id)
            holder = await self._holder(key)
            if holder is None:
                raise ScheduleChanged  # the key expired in this moment, or a replica lags behind
            return JobId(holder, duplicate=holder != one.job_id)

        return await settled(put, within=self._timeout, else_say=text)

    async def _store_chunk(self, chunk: Sequence[Named]) -> list[JobId]:
        if await self._send([message for one in chunk for message in self._with_key(one)]):
            return [JobId(one.job_id) for one in chunk]
        # Some of the keys are taken: one by one, each answers with its own or its original's id.
        return await _in_groups(self._store, chunk, _BATCHES_IN_FLIGHT)

    async def _send(self, messages: Sequence[Outgoing]) -> bool:
        """Store all of them; False if a key is taken, perhaps by a copy of these whose answer was lost."""
        try:
            answer = await self._send_once(messages)
        except ConnectionLost:
            try:
                answer = await self._send_once(messages)
            except ConnectionLost as error:
                raise unknown(error, _GIVE_A_KEY) from error
        refused = answer.get("error")
        if refused is None:
            return True
        if refused.get("err_code") in WRONG_REVISION:
            return False
        raise refusal(refused)

    async def _send_once(self, messages: Sequence[Outgoing]) -> dict[str, Any]:
        try:
            return await send_batch(self._connection, messages, most_bytes=MAX_SCHEDULED, timeout=self._timeout)
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error

    async def _holder(self, key: str) -> str | None:
        request = {"last_by_subj": self._names.schedule_key(key).decode()}
        found = await find_stored(self._connection, self._names.schedule_stream, request)
        return None if found is None else found.data.decode("utf-8", "backslashreplace")

    async def _write_entry(self, entry: JobStatusResponse) -> None:
        try:
            with suppress(Conflict):  # it fired, and a worker has begun it already
                await self._state.write(entry, expected=0, within=self._timeout)
        except JobError as error:
            # The job is scheduled and its id is told: who submitted it must not do so again.
            logger.warning("job %s is scheduled, its entry could not be written: %s", entry.job_id, error.message)


def _new_id() -> str:
    return f"at-{random_token()}"


async def _in_groups(work: Callable[[Any], Any], items: Sequence[Any], size: int) -> list[Any]:
    done: list[Any] = []
    for start in range(0, len(items), size):
        done += await asyncio.gather(*(work(item) for item in items[start : start + size]))
    return done
