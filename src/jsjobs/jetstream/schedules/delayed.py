"""Submit jobs that are not due yet: each has a schedule, and an entry from then on.

The schedule is written first: an entry alone would be a job that never comes. A dedupe key is noted in the same atomic
batch as the schedule, so that neither ever exists without the other. Debounced jobs are here too: of those submitted
under one key, only the last waits, in the place of the earlier ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api.errors import Refusal
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.messages import find_stored
from jsjobs.jetstream.api.publish import (
    MAX_BATCH,
    NOTHING_MORE_QUEUED,
    NOTHING_QUEUED,
    Outgoing,
    PubAck,
    refusal,
    send_batch,
    unknown,
)
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, NoResponders, no_streams
from jsjobs.jetstream.jobs.cancel_notices import tell_cancelled
from jsjobs.jetstream.jobs.message import given_entry
from jsjobs.jetstream.jobs.queue import OutgoingJob
from jsjobs.jetstream.jobs.state_store import WRONG_REVISION, Conflict, Found, StateStore
from jsjobs.jetstream.protocol.headers import GIVEN_ID, MSG_ID, header_block, read_job_headers
from jsjobs.jetstream.protocol.job_ids import debounced_id, digest_of
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.schedule import delayed
from jsjobs.jetstream.schedules.store import MAX_SCHEDULED, ScheduleChanged, Schedules
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Status, random_token, utc_now
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.publishing")

_ENTRIES_IN_FLIGHT = 512
_BATCHES_IN_FLIGHT = 32
"""Fewer than the 50 that a stream allows:
docs/server-quirks.md#open-batches-are-limited-and-only-the-first-message-is-told."""
_OF_A_SCHEDULE = 320
"""Maximum bytes added by the headers of a schedule and of its batch, besides its subject."""
_GIVE_A_KEY = "give it a dedupe_key to make submitting it again safe"
_PATIENCE = 1.0
"""Seconds to wait, at most, while others keep writing the entry of a debounced job."""


class DelayedJob(NamedTuple):
    """A job and its due time."""

    job: OutgoingJob
    due: datetime


class Named(NamedTuple):
    """A delayed job with the id it was given."""

    job_id: str
    key: str | None
    """The digest of the dedupe key."""
    schedule: Outgoing
    entry: JobStatusResponse


def named(names: Names, delayed_job: DelayedJob, job_id: str) -> Named:
    """Give a delayed job an id, and return it with its schedule and its entry.

    Args:
        names: The namespace.
        delayed_job: The job and its due time.
        job_id: The id to give it.
    """
    job, due = delayed_job
    own = {name: value for name, value in job.headers.items() if name != MSG_ID} | {GIVEN_ID: job_id}
    headers = read_job_headers(tuple(own.items()))
    entry = given_entry(job_id, job.type, job.queue.priority, headers, utc_now(), scheduled_for=due)
    key = job.headers.get(MSG_ID)
    schedule = Outgoing(names.schedule(job_id), job.data, delayed(names, job.subject, own, due))
    return Named(job_id, None if key is None else digest(key), schedule, entry)


def digest(key: str) -> str:
    """Return the digest of a key as a part of a subject, 32 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Delayed:
    """Submit delayed jobs of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float, duplicate_window: float) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._window = f"{max(1, math.ceil(duplicate_window))}s"
        self._schedules = Schedules(connection, names, timeout=timeout)
        self._state = StateStore(connection, names)

    @property
    def stream(self) -> str:
        """Return the stream that holds the delayed jobs."""
        return self._names.schedule_stream

    def misfit(self, job: Outgoing) -> str | None:
        """Return why a job of a list is too large to be scheduled, or None if it is not."""
        size = len(header_block(job.headers)) + len(job.data) + len(job.subject) + _OF_A_SCHEDULE
        limit = min(MAX_SCHEDULED, self._connection.max_payload)
        return None if size <= limit else f"{size} bytes with its headers, the limit is {limit}"

    async def submit(self, delayed_job: DelayedJob) -> JobId:
        """Schedule one job and return its id, which is valid from now on.

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
        """Schedule a list: all or nothing up to 1,000 jobs (500 with dedupe keys), in chunks of that size above.

        Args:
            jobs: The jobs.
            receipts: Each chunk's ids are added here as soon as it is scheduled.
            on_queued: Called with the number of receipts after each chunk.

        Raises:
            JobError: As in `submit`.
        """
        size = MAX_BATCH // 2 if any(MSG_ID in each.job.headers for each in jobs) else MAX_BATCH
        for start in range(0, len(jobs), size):
            chunk = [named(self._names, each, _new_id()) for each in jobs[start : start + size]]
            stored = await self._store_chunk(chunk, NOTHING_MORE_QUEUED if receipts else NOTHING_QUEUED)
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
        key, text = one.key, "the dedupe_key is used already, but by which job could not be read: submit it again"

        async def put() -> JobId:
            if await self._send(self._with_key(one)):
                return JobId(one.job_id)
            holder = await self._holder(key)
            if holder is None:
                raise ScheduleChanged  # the key expired at this moment, or a replica lags behind
            return JobId(holder, duplicate=holder != one.job_id)

        return await settled(put, within=self._timeout, else_say=text)

    async def _store_chunk(self, chunk: Sequence[Named], outcome: str) -> list[JobId]:
        if await self._send([message for one in chunk for message in self._with_key(one)], outcome):
            return [JobId(one.job_id) for one in chunk]
        # Some of the keys are taken: stored one by one, each job gets its own or its original's id.
        return await _in_groups(self._store, chunk, _BATCHES_IN_FLIGHT)

    async def _send(self, messages: Sequence[Outgoing], outcome: str = NOTHING_QUEUED) -> bool:
        """Store all messages; return False if a key is taken, perhaps by a copy of them whose answer was lost."""
        try:
            answer = await self._send_once(messages, outcome)
        except ConnectionLost:
            try:
                answer = await self._send_once(messages, outcome)
            except ConnectionLost as error:
                raise unknown(error, _GIVE_A_KEY) from error
        if isinstance(answer, PubAck):
            return True
        if answer.err_code in WRONG_REVISION:
            return False
        raise refusal(answer, outcome)

    async def _send_once(self, messages: Sequence[Outgoing], outcome: str) -> PubAck | Refusal:
        try:
            return await send_batch(
                self._connection, messages, most_bytes=MAX_SCHEDULED, timeout=self._timeout, outcome=outcome
            )
        except NoResponders as error:
            raise JobError.from_runner_unavailable(no_streams(self._names.namespace)) from error

    async def _holder(self, key: str) -> str | None:
        request: MessageRequest = {"last_by_subj": self._names.schedule_key(key).decode()}
        found = await find_stored(self._connection, self._names.schedule_stream, request)
        return None if found is None else found.data.decode("utf-8", "backslashreplace")

    async def _write_entry(self, entry: JobStatusResponse) -> None:
        try:
            with suppress(Conflict):  # it fired, and a worker has started it already
                await self._state.write(entry, expected=0, within=self._timeout)
        except JobError as error:
            # The job is scheduled and its id is returned: its publisher must not submit it again.
            logger.warning("job %s is scheduled, its entry could not be written: %s", entry.job_id, error.message)


def _new_id() -> str:
    return f"at-{random_token()}"


async def _in_groups(work: Callable[[Any], Any], items: Sequence[Any], size: int) -> list[Any]:
    done: list[Any] = []
    for start in range(0, len(items), size):
        done += await asyncio.gather(*(work(item) for item in items[start : start + size]))
    return done


class Debounced:
    """Submit debounced jobs of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float, result_ttl: float) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._result_ttl = result_ttl
        self._schedules = Schedules(connection, names, timeout=timeout)
        self._state = StateStore(connection, names)

    async def submit(self, delayed_job: DelayedJob, key: str) -> JobId:
        """Schedule a job in place of the one that waits under the same key, if any; return that one's id, or a new one.

        Raises:
            JobError: As in `Delayed.submit`; also `RunnerUnavailable`, if many submits of the key happen at once.
        """
        text = "too many submits of the same debounce_key at once: submit it again"
        return await settled(lambda: self._put(delayed_job, digest(key)), within=self._timeout, else_say=text)

    async def _put(self, delayed_job: DelayedJob, of_key: str) -> JobId:
        job_id = debounced_id(of_key, random_token())
        found = await self._schedules.find(self._names.schedule(job_id))
        known: Found | None = None
        # An id that does not belong to this key is a stranger's.
        if found is not None and found.is_live and found.job_id and digest_of(found.job_id) == of_key:
            known = await self._state.read(found.job_id)
            if known is None or known.is_deleted or (known.entry is not None and not known.entry.status.is_terminal):
                job_id = found.job_id  # a cancelled one would never run: its successor is another job
        one = named(self._names, delayed_job, job_id)
        schedule = one.schedule
        try:
            if found is None:
                await self._schedules.store(schedule.subject, schedule.headers, schedule.data, expected=0)
            else:
                await self._schedules.replace(found, schedule.headers, schedule.data)
        except ConnectionLost as error:
            raise unknown(error, "submit it again with the same debounce_key, it will not run twice") from error
        if known is not None and known.entry is not None and known.entry.status is Status.CANCELLED:
            await self._let_age(known.entry, known)
        if not await self._write(one):
            raise ScheduleChanged
        return JobId(job_id)

    async def _let_age(self, cancelled: JobStatusResponse, known: Found) -> None:
        """Give a cancelled entry its time to live.

        Whoever cancelled it no longer finds a schedule, because this one has taken its place.
        """
        if not known.expires:
            with suppress(Conflict):
                await self._state.write(cancelled, expected=known.revision, ttl=self._result_ttl, within=self._timeout)
                tell_cancelled(self._connection, self._names, cancelled.job_id)

    async def _write(self, one: Named) -> bool:
        """Write the entry of a job that may have replaced another; return False if that one was cancelled meanwhile."""

        async def write() -> bool:
            found = await self._state.read(one.job_id)
            entry = one.entry
            if found is not None and not found.is_deleted:
                if found.entry is None or found.entry.status is Status.CANCELLED:
                    return False
                if found.entry.carrier is not None or found.entry.status.is_terminal:
                    return True  # it fired, and a worker has started it, or ended it
                kept = {"created_at": found.entry.created_at, "history": found.entry.history}
                entry = entry.model_copy(update=kept)
            await self._state.write(entry, expected=found.revision if found else 0, within=self._timeout)
            return True

        try:
            return await settled(write, within=_PATIENCE)
        except Conflict:
            return True  # others keep writing the entry: the job is scheduled
