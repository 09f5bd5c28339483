"""Submitting jobs that are not due yet: a schedule each, and an entry that tells of the job from then on.

The schedule comes first: an entry alone would be a job that never comes. A dedupe key is noted in the same atomic batch
as the schedule, so that neither is ever there without the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.acknowledgements import refusal, unknown
from jsjobs.jetstream.atomic import MAX_BATCH, send_batch
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.ids import debounced_id
from jsjobs.jetstream.incoming import given_entry
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.schedules import MAX_SCHEDULED, ScheduleChanged, Schedules, delayed
from jsjobs.jetstream.state import WRONG_REVISION, Conflict, StateStore
from jsjobs.jetstream.stored import find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, MSG_ID, header_block, parse_job_headers
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, random_token, utc_now

logger = logging.getLogger("jsjobs.publishing")

_ENTRIES_IN_FLIGHT = 512
_BATCHES_IN_FLIGHT = 32
"""Fewer than the 50 that a stream of nats-server 2.15 lets begin before one of them is complete."""
_OF_A_SCHEDULE = 320
"""Bytes that the headers of a schedule and of its batch add, beside its subject, at most."""
_GIVE_A_KEY = "give it a dedupe_key to make submitting it again safe"
_TRIES = 50
_LOOK_AGAIN = 0.02
"""Seconds after a lost race, in which a replica has mostly caught up."""


class DelayedJob(NamedTuple):
    """A job, and when it is due."""

    job: Outgoing
    due: datetime


class _Named(NamedTuple):
    """A delayed job under the id it was given."""

    job_id: str
    key: str | None
    """The dedupe key's digest."""
    schedule: Outgoing
    entry: JobStatusResponse


class Delayed:
    """Submits delayed jobs of one namespace."""

    def __init__(
        self, connection: Connection, names: Names, *, timeout: float = 5.0, duplicate_window: float = 120.0
    ) -> None:
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
        named = self._named(delayed_job)
        receipt = await self._store(named)
        if not receipt.duplicate:
            await self._write_entry(named.entry)
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
            chunk = [self._named(each) for each in jobs[start : start + size]]
            stored = await self._store_chunk(chunk)
            receipts += stored
            new = [named.entry for named, receipt in zip(chunk, stored, strict=True) if not receipt.duplicate]
            await _in_groups(self._write_entry, new, _ENTRIES_IN_FLIGHT)
            if on_queued is not None:
                on_queued(len(receipts))

    async def debounce(self, delayed_job: DelayedJob, key: str) -> JobId:
        """Schedule a job in the place of the one that waits under the same key; that one's id, if there is one.

        Raises:
            JobError: As `submit`; `RunnerUnavailable` also, if many submits of the key are under way at once.
        """
        job, due = delayed_job
        digest = _digest(key)
        for _ in range(_TRIES):
            job_id = debounced_id(digest, random_token())
            found = await self._schedules.find(self._names.schedule(job_id))
            if found is not None and found.is_live and found.job_id is not None:
                known = await self._state.read(found.job_id)
                if known is None or (known.entry is not None and not known.entry.status.is_terminal):
                    job_id = found.job_id  # a cancelled one would never run: its successor is another job
            named = self._named(DelayedJob(job, due), job_id)
            schedule = named.schedule
            try:
                if found is None:
                    await self._schedules.store(schedule.subject, schedule.headers, schedule.data, expected=0)
                else:
                    await self._schedules.replace(found, schedule.headers, schedule.data)
            except ConnectionLost as error:
                raise unknown(error, "submit it again with the same debounce_key, it will not run twice") from None
            except ScheduleChanged:
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            if await self._write_debounced(named):
                return JobId(job_id)
        raise JobError.from_runner_unavailable("too many submits of the same debounce_key at once: submit it again")

    async def _write_debounced(self, named: _Named) -> bool:
        """Write the entry of a job that may have replaced an earlier one; False if that one was cancelled meanwhile."""
        for _ in range(_TRIES):
            found = await self._state.read(named.job_id)
            entry = named.entry
            if found is not None:
                if found.entry is None or found.entry.status.is_terminal:
                    return False
                if found.entry.carrier is not None:
                    return True  # it fired, and a worker has begun it
                kept = {"created_at": found.entry.created_at, "history": found.entry.history}
                entry = entry.model_copy(update=kept)
            try:
                await self._state.write(entry, expected=found.revision if found else 0, within=self._timeout)
            except Conflict:
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                return True
        return True  # others write of it all the time: it is scheduled

    # -- messages

    def _named(self, delayed_job: DelayedJob, job_id: str | None = None) -> _Named:
        job, due = delayed_job
        job_id = job_id or f"at-{random_token()}"
        own = {name: value for name, value in job.headers.items() if name != MSG_ID} | {GIVEN_ID: job_id}
        priority, job_type = self._names.queue_of_due(self._names.due(job.subject))
        headers = parse_job_headers(header_block(own))
        entry = given_entry(job_id, job_type, priority, headers, utc_now(), scheduled_for=due)
        key = job.headers.get(MSG_ID)
        schedule = Outgoing(self._names.schedule(job_id), job.data, delayed(self._names, job.subject, own, due))
        return _Named(job_id, None if key is None else _digest(key), schedule, entry)

    def _with_key(self, named: _Named) -> list[Outgoing]:
        if named.key is None:
            return [named.schedule]
        headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": self._window}
        return [Outgoing(self._names.schedule_key(named.key), named.job_id.encode(), headers), named.schedule]

    # -- storing

    async def _store(self, named: _Named) -> JobId:
        """Store one job and its key, or find the job that has the key."""
        if named.key is None:
            schedule = named.schedule
            try:
                await self._schedules.store(schedule.subject, schedule.headers, schedule.data)
            except ConnectionLost as error:
                raise unknown(error, _GIVE_A_KEY) from None
            return JobId(named.job_id)
        for _ in range(_TRIES):
            if await self._send(self._with_key(named)):
                return JobId(named.job_id)
            holder = await self._holder(named.key)
            if holder is not None:  # else the key expired in this moment, or a replica lags behind
                return JobId(holder, duplicate=holder != named.job_id)
            await asyncio.sleep(_LOOK_AGAIN)
        raise JobError.from_runner_unavailable("the dedupe_key is taken, by which job could not be read: submit again")

    async def _store_chunk(self, chunk: Sequence[_Named]) -> list[JobId]:
        if await self._send([message for named in chunk for message in self._with_key(named)]):
            return [JobId(named.job_id) for named in chunk]
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
                raise unknown(error, _GIVE_A_KEY) from None
        refused = answer.get("error")
        if refused is None:
            return True
        if refused.get("err_code") in WRONG_REVISION:
            return False
        raise refusal(refused)

    async def _send_once(self, messages: Sequence[Outgoing]) -> dict[str, Any]:
        try:
            return await send_batch(self._connection, messages, most_bytes=MAX_SCHEDULED, timeout=self._timeout)
        except NoResponders:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from None

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


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


async def _in_groups(work: Callable[[Any], Any], items: Sequence[Any], size: int) -> list[Any]:
    done: list[Any] = []
    for start in range(0, len(items), size):
        done += await asyncio.gather(*(work(item) for item in items[start : start + size]))
    return done
