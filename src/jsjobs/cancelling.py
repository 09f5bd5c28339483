"""Cancelling a job. Its entry alone decides, whoever else acts on it at the same moment.

A job that waits is cancelled by writing so; its message is deleted afterwards, and a worker that meets it first just
acknowledges it. A job that runs is cancelled by the worker that runs it: nobody else may delete a message in flight,
which would free its shard while the handler still runs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress

from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import ApiError, call
from jsjobs.jetstream.cancelled import tell_cancelled
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.follow import looks
from jsjobs.jetstream.ids import checked_id
from jsjobs.jetstream.incoming import fetch_job
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.room import find_no_room
from jsjobs.jetstream.schedules import ScheduleChanged, Schedules
from jsjobs.jetstream.state import Conflict, Found, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.waiting import waiting_entry
from jsjobs.model.checks import checked_timeout, shortened
from jsjobs.model.errors import AlreadyEnded, JobError
from jsjobs.model.job import Carrier, JobStatusResponse, Priority, Status, utc_now
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.cancelling")

_ASK_EVERY = 0.5
"""Seconds between two requests to the worker of a running job, which may pass to another worker meanwhile."""
_DELETE_WITHIN = 10.0
"""Seconds in which the message of a cancelled job is deleted, or left to a worker."""
_LEFT_BEHIND = 366 * 24 * 3600.0
"""Seconds, beyond its due time, in which a worker meets the message of a job whose canceller died, if one ever does."""
_SHOWN = 300
"""Characters of the error that a dead job died of."""
_MORE_LOOKS = (0.05, 0.25)
"""Seconds before each further look for a job that is not found: a replica may lag behind."""


async def cancel_job(connection: Connection, config: Config, job_id: str, *, timeout: float) -> JobStatusResponse:
    """Cancel a job; see `JobService.cancel`.

    Raises:
        JobError: As there.
    """
    return await _Cancelling(connection, config, checked_id(job_id)).run(checked_timeout(timeout))


class _Cancelling:
    def __init__(self, connection: Connection, config: Config, job_id: str) -> None:
        self._connection = connection
        self._config = config
        self._names = Names(config.namespace)
        self._state = StateStore(connection, self._names)
        self._job_id = job_id
        self._deadline = 0.0
        self._asked_at: float | None = None
        self._is_stopping = False
        self._refused: NotPermitted | None = None

    async def run(self, timeout: float) -> JobStatusResponse:
        self._deadline = time.monotonic() + timeout
        async with aclosing(looks(self._connection, [self._names.state(self._job_id)])) as times:
            async for _ in times:
                try:
                    found = await self._cancel_unless_running()
                except JobError as error:
                    is_outage = isinstance(error, ConnectionLost) or (self._has_asked and error.is_transient)
                    if not is_outage or self._left() == 0:
                        raise
                    continue  # the next look may succeed
                if isinstance(found, JobStatusResponse):
                    return found
                if found.entry is None or found.entry.status is not Status.PROCESSING:
                    return await self._judged(found)
                self._ask_worker()
                if self._refused is not None:
                    raise self._refused
                if self._left() == 0:
                    break
        if no_room := await find_no_room(self._connection, self._names):
            raise no_room  # its worker cannot write the end either
        raise self._undecided(timeout)

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def _judged(self, found: Found) -> JobStatusResponse:
        """The entry of a job that its worker cancelled as it was asked to; else why there is nothing to cancel."""
        entry = found.entry
        if entry is not None and entry.status is Status.CANCELLED:
            if self._has_asked:
                return entry
            if not found.expires:
                await self._clear(entry, found.revision)  # whoever cancelled it did not come so far
        raise self._ended(found)

    async def _cancel_unless_running(self) -> JobStatusResponse | Found:
        """The new entry of the job, if it waited and is cancelled now; else what was found of it.

        Raises:
            JobError: `NotFound`, if neither an entry nor a message of the job is there.
        """
        more_looks = list(_MORE_LOOKS)
        while True:
            found = await self._state.read(self._job_id)
            with suppress(Conflict):  # a worker began it, or somebody else cancelled it, in this moment
                if found is None or found.is_deleted:
                    entry = await waiting_entry(self._connection, self._names, self._job_id)
                    if entry is not None:
                        return await self._cancel(entry, found.revision if found else 0)
                    if not more_looks:
                        raise JobError.from_not_found(f"no job {self._job_id} is known", job_id=self._job_id)
                    # It may also have begun, or ended, between the two looks.
                    await asyncio.sleep(more_looks.pop(0))
                elif found.entry is not None and found.entry.status is Status.QUEUED:
                    return await self._cancel(found.entry, found.revision)
                else:
                    return found

    async def _cancel(self, entry: JobStatusResponse, expected: int) -> JobStatusResponse:
        now = utc_now()
        cancelled = entry.cancelled(now)
        # Its own time to live counts from when no worker can meet the job's message any more.
        due = entry.scheduled_for or now
        ttl = max(0.0, (due - now).total_seconds()) + _LEFT_BEHIND + self._config.result_ttl
        revision = await self._state.write(cancelled, expected=expected, ttl=ttl, provisional=True, within=self._left())
        await self._clear(cancelled, revision)
        return cancelled

    async def _clear(self, entry: JobStatusResponse, revision: int) -> None:
        """Delete the message of a job that is cancelled, and let its entry age; a worker that meets it does the same.

        A job that is not due yet has a schedule. Once it fired, and for a replay, it is not known which message has the
        given id before a worker has begun it: that one is left to a worker.
        """
        try:
            if entry.carrier is not None:
                await self._delete(entry.priority, entry.carrier)
            elif not await self._unschedule():
                return
            with suppress(Conflict):  # a worker met the message first
                ttl = self._config.result_ttl
                await self._state.write(entry, expected=revision, ttl=ttl, within=self._left())
                tell_cancelled(self._connection, self._names, self._job_id)
        except JobError as error:
            logger.warning("job %s is cancelled, its message is left to a worker: %s", self._job_id, error)

    async def _delete(self, priority: Priority, carrier: Carrier) -> None:
        job = await fetch_job(self._connection, self._names, priority, carrier.sequence)
        if job is not None and job.carrier != carrier:
            return  # of a stream that was made anew
        try:
            request = {"seq": carrier.sequence, "no_erase": True}
            within = min(_DELETE_WITHIN, max(1.0, self._left()))  # a server that forbids it does not answer
            await call(self._connection, f"STREAM.MSG.DELETE.{carrier.stream}", request, timeout=within)
        except ApiError:
            # Else a worker was faster.
            if await fetch_job(self._connection, self._names, priority, carrier.sequence) is not None:
                raise

    async def _unschedule(self) -> bool:
        """Take the job's schedule away; False if it has none, any more or at all."""
        schedules = Schedules(self._connection, self._names, timeout=self._config.timeout)
        while True:
            schedule = await schedules.of_job(self._job_id)
            if schedule is None or not schedule.is_live:
                return schedule is not None
            with suppress(ScheduleChanged):  # it fired, or was put off, in this moment
                await schedules.remove(schedule)
                return True

    @property
    def _has_asked(self) -> bool:
        return self._asked_at is not None

    def _ask_worker(self) -> None:
        """Ask the worker that runs the job to stop it; its answer only tells that there is one."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < _ASK_EVERY:
            return
        self._asked_at = now
        with suppress(ConnectionLost):  # the next look asks again
            answer = self._connection.ask_soon(self._names.cancel(self._job_id), timeout=_ASK_EVERY, seen=True)
            answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: asyncio.Future[Reply]) -> None:
        # The last one counts: a worker that answered before may be lost by now.
        error = None if answer.cancelled() else answer.exception()
        self._is_stopping = not answer.cancelled() and error is None
        if isinstance(error, NotPermitted):
            self._refused = error

    def _undecided(self, timeout: float) -> JobError:
        if self._is_stopping:
            return JobError.from_timeout(
                f"job {self._job_id} was asked to stop and is still stopping after {timeout:g} s; it is cancelled once "
                "its handler has ended",
                job_id=self._job_id,
            )
        return JobError.from_runner_unavailable(
            f"job {self._job_id} is processing, and within {timeout:g} s no worker said that it runs it; where its "
            "worker was lost, the job waits for another one after ack_wait: cancel it again then",
            job_id=self._job_id,
        )

    def _ended(self, found: Found) -> JobError:
        """Why a job that has ended cannot be cancelled."""
        if found.entry is None:
            return JobError.from_not_found(f"job {self._job_id} ended, and its result has expired", job_id=self._job_id)
        if found.entry.status is Status.CANCELLED:
            return JobError.from_already_cancelled(f"job {self._job_id} is already cancelled", job_id=self._job_id)
        dead = f"already dead ({shortened(found.entry.last_error or 'no error', _SHOWN)})"
        what = "already complete" if found.entry.status is Status.COMPLETE else dead
        return AlreadyEnded(f"job {self._job_id} cannot be cancelled: it is {what}", job_id=self._job_id)
