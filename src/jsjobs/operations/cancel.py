"""Cancel a job. Its entry alone decides, whoever else acts on the job at the same moment.

A waiting job is cancelled by a write to its entry. Its message is deleted afterwards; a worker that gets it first just
acknowledges it. A running job is cancelled by the worker that runs it. Nobody else may delete a message in flight,
which would free its shard while the handler still runs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress

from jsjobs.jetstream.api.errors import ApiError
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.room import find_no_room
from jsjobs.jetstream.api.streams import delete_message
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.jobs.cancel_notices import tell_cancelled
from jsjobs.jetstream.jobs.message import fetch_carrier
from jsjobs.jetstream.jobs.state_store import Conflict, Found, StateStore
from jsjobs.jetstream.protocol.job_ids import checked_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.jetstream.tracking.follower import follow
from jsjobs.jetstream.tracking.lookup import waiting_entry
from jsjobs.model.checks import checked_timeout, shortened
from jsjobs.model.errors import AlreadyEnded, JobError
from jsjobs.model.job import Carrier, JobStatusResponse, Status, utc_now
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.cancelling")

_ASK_EVERY = 0.5
"""Seconds between two requests to the worker of a running job, which may pass to another worker meanwhile."""
_DELETE_WITHIN = 10.0
"""Seconds to delete the message of a cancelled job, at most; after that it is left to a worker."""
LEFT_BEHIND = 366 * 24 * 3600.0
"""Seconds after its due time within which a worker gets the message of a job whose canceller died, if one ever does."""
_SHOWN = 300
"""Characters of a dead job's last error that are shown, at most."""
_MORE_LOOKS = (0.05, 0.25)
"""Seconds before each further read of a job that is not found: a replica may lag behind."""


async def cancel_job(connection: Connection, config: Config, job_id: str, *, timeout: float) -> JobStatusResponse:
    """Cancel a job; see `JobService.cancel`.

    Raises:
        JobError: See there.
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
        reads = follow(
            self._connection,
            self._names.state(self._job_id),
            # A worker may begin the job, or somebody else cancel it, at this moment.
            lambda: settled(self._cancel_unless_running),
            waits_for_server=True,
            deadline=self._deadline,
        )
        async with aclosing(reads):
            async for found in reads:
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
        """Return the entry of a job that its worker cancelled on request; else raise why nothing is left to cancel."""
        entry = found.entry
        if entry is not None and entry.status is Status.CANCELLED:
            if self._has_asked:
                return entry
            if not found.expires:
                await self._clear(entry, found.revision)  # an earlier canceller did not get this far
        raise self._ended(found)

    async def _cancel_unless_running(self) -> JobStatusResponse | Found:
        """Cancel the job if it waits, and return its new entry; else return what was found of it.

        Raises:
            Conflict: If somebody else wrote the entry first.
            JobError: `NotFound`, if the job has neither an entry nor a message.
        """
        more_looks = list(_MORE_LOOKS)
        while True:
            found = await self._state.read(self._job_id)
            if found is not None and not found.is_deleted:
                if found.entry is not None and found.entry.status is Status.QUEUED:
                    return await self._cancel(found.entry, found.revision)
                return found
            entry = await waiting_entry(self._connection, self._names, self._job_id)
            if entry is not None:
                return await self._cancel(entry, found.revision if found else 0)
            if not more_looks:
                raise JobError.from_not_found(f"job {self._job_id} is not known", job_id=self._job_id)
            # It may also have begun, or ended, between the two reads.
            await asyncio.sleep(more_looks.pop(0))

    async def _cancel(self, entry: JobStatusResponse, expected: int) -> JobStatusResponse:
        now = utc_now()
        cancelled = entry.cancelled(now)
        # The usual time to live counts from when no worker can get the job's message any more.
        due = entry.scheduled_for or now
        ttl = max(0.0, (due - now).total_seconds()) + LEFT_BEHIND + self._config.result_ttl
        revision = await self._state.write(cancelled, expected=expected, ttl=ttl, provisional=True, within=self._left())
        await self._clear(cancelled, revision)
        return cancelled

    async def _clear(self, entry: JobStatusResponse, revision: int) -> None:
        """Delete the message of a cancelled job and let its entry expire; a worker that gets the message does the same.

        A job that is not due yet has a schedule. Once that has fired, and for a replay, nobody knows which message has
        the given id until a worker begins the job: such a message is left to a worker.
        """
        try:
            if entry.carrier is not None:
                await self._delete(entry.carrier)
            elif not await settled(self._unschedule):  # it may fire, or be moved, at this moment
                return
            with suppress(Conflict):  # a worker got the message first
                ttl = self._config.result_ttl
                await self._state.write(entry, expected=revision, ttl=ttl, within=self._left())
                tell_cancelled(self._connection, self._names, self._job_id)
        except JobError as error:
            logger.warning("job %s is cancelled, its message is left to a worker: %s", self._job_id, error)

    async def _delete(self, carrier: Carrier) -> None:
        job = await fetch_carrier(self._connection, self._names, carrier)
        if job is not None and job.carrier != carrier:
            return  # of a stream that was made anew
        try:
            within = min(_DELETE_WITHIN, max(1.0, self._left()))  # a server that forbids it does not answer
            await delete_message(self._connection, carrier.stream, carrier.sequence, timeout=within)
        except ApiError:
            # If the message is gone, a worker was faster.
            if await fetch_carrier(self._connection, self._names, carrier) is not None:
                raise

    async def _unschedule(self) -> bool:
        """Remove the job's schedule; return False if it has none, any more or at all.

        Raises:
            ScheduleChanged: If it fired, or was moved, first.
        """
        schedules = Schedules(self._connection, self._names, timeout=self._config.timeout)
        schedule = await schedules.of_job(self._job_id)
        if schedule is not None and schedule.is_live:
            await schedules.remove(schedule)
        return schedule is not None

    @property
    def _has_asked(self) -> bool:
        return self._asked_at is not None

    def _ask_worker(self) -> None:
        """Ask the worker that runs the job to stop it; an answer only tells that there is such a worker."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < _ASK_EVERY:
            return
        self._asked_at = now
        with suppress(ConnectionLost):  # the next read asks again
            answer = self._connection.ask_soon(self._names.cancel(self._job_id), timeout=_ASK_EVERY, seen=True)
            answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: asyncio.Future[Reply]) -> None:
        # The last answer counts: a worker that answered before may be lost by now.
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
            f"job {self._job_id} is processing, and within {timeout:g} s no worker said that it runs it; if its "
            "worker was lost, another one takes the job after ack_wait: cancel it again then",
            job_id=self._job_id,
        )

    def _ended(self, found: Found) -> JobError:
        """Return the error that says why an ended job cannot be cancelled."""
        if found.entry is None:
            return JobError.from_not_found(f"job {self._job_id} ended, and its result has expired", job_id=self._job_id)
        if found.entry.status is Status.CANCELLED:
            return JobError.from_already_cancelled(f"job {self._job_id} is already cancelled", job_id=self._job_id)
        dead = f"already dead ({shortened(found.entry.last_error or 'no error', _SHOWN)})"
        what = "already complete" if found.entry.status is Status.COMPLETE else dead
        return AlreadyEnded(f"job {self._job_id} cannot be cancelled: it is {what}", job_id=self._job_id)
