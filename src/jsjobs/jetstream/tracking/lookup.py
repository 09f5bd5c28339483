"""Look up a job: its entry, or the message or schedule that still waits for its first attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import fetch_waiting
from jsjobs.jetstream.jobs.state_store import Found, StateStore
from jsjobs.jetstream.protocol.job_ids import checked_id, parse_plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.fired import fired_entries
from jsjobs.jetstream.schedules.schedule import Schedule, read_schedule
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.jetstream.tracking.follower import follow
from jsjobs.jetstream.tracking.progress_feed import follow_progress
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, ProgressUpdate

_AGAIN = 0.05


async def waiting_entry(connection: Connection, names: Names, job_id: str) -> JobStatusResponse | None:
    """Return the entry that a job without one would have, from its waiting message or schedule.

    It is None if nothing of the job waits in the place that its id names.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the streams do not exist; `Validation`, if
            the message or schedule cannot be read.
    """
    if parse_plain_id(job_id) is not None:
        job = await fetch_waiting(connection, names, job_id)
        return None if job is None else job.entry()
    schedule = await Schedules(connection, names).of_job(job_id)
    if schedule is not None:
        return schedule.entry(names) if schedule.is_live else None
    return (await fired_entries(connection, names, [job_id])).get(job_id)


async def delayed_schedules(connection: Connection, names: Names) -> AsyncIterator[Schedule]:
    """Yield the schedules of all delayed jobs that are not due yet.

    Raises:
        JobError: See `Schedules.find`.
    """
    async for message in stored(connection, names.schedule_stream, names.schedule(">").decode()):
        schedule = read_schedule(message)
        if schedule.is_live and schedule.due is not None:
            yield schedule


class Lookup:
    """Read what is known of jobs; change nothing."""

    def __init__(self, connection: Connection, names: Names, state: StateStore) -> None:
        self._connection = connection
        self._names = names
        self._state = state

    async def status(self, job_id: str) -> JobStatusResponse:
        """Return all that is known of a job.

        Raises:
            JobError: `NotFound`, if no stream knows the id; `RunnerUnavailable`, if the server cannot be reached.
        """
        checked_id(job_id)
        found = await self._state.read(job_id)
        if found is None or found.is_deleted:
            waiting = await self._waiting(job_id)
            if waiting is not None:
                return waiting
            # It may have ended between the two reads; a replica may also lag a moment behind.
            await asyncio.sleep(_AGAIN)
            found = await self._state.read(job_id)
        return self._entry(found, job_id)

    @staticmethod
    def _entry(found: Found | None, job_id: str) -> JobStatusResponse:
        if found is None or found.is_deleted:
            raise JobError.from_not_found(f"job {job_id} is not known", job_id=job_id)
        if found.entry is None:
            raise JobError.from_not_found(f"job {job_id} ended, and its result has expired", job_id=job_id)
        return found.entry

    async def _waiting(self, job_id: str) -> JobStatusResponse | None:
        """Return the status of a job that no worker has begun yet, from its message or its schedule."""
        return await waiting_entry(self._connection, self._names, job_id)

    async def watch(self, job_id: str) -> AsyncGenerator[JobStatusResponse, None]:
        """Yield the status now, and each time it changes, until the job has ended.

        Raises:
            JobError: See `status`.
        """
        last: JobStatusResponse | None = None
        subject = self._names.state(checked_id(job_id))
        async with aclosing(follow(self._connection, subject, lambda: self.status(job_id))) as reads:
            async for status in reads:
                if status != last:
                    last = status
                    yield status
                if status.status.is_terminal:
                    return

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """Yield the stored progress updates, then live ones, until the job has ended.

        Raises:
            JobError: See `status`.
        """

        async def ended() -> bool:
            return (await self.status(job_id)).status.is_terminal

        return follow_progress(self._connection, self._names, job_id, ended)
