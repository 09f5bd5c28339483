"""Answering "what became of this job": its entry, or the message that still waits for its first attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.follow import looks
from jsjobs.jetstream.ids import checked_id
from jsjobs.jetstream.progress_feed import follow_progress
from jsjobs.jetstream.state import Found, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.waiting import waiting_entry
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.progress import ProgressUpdate

_AGAIN = 0.05


class Lookup:
    """Reads what is known of jobs; changes nothing."""

    def __init__(self, connection: Connection, names: Names, state: StateStore) -> None:
        self._connection = connection
        self._names = names
        self._state = state

    async def status(self, job_id: str) -> JobStatusResponse:
        """All that is known of a job.

        Raises:
            JobError: `NotFound`, if no stream knows the id; `RunnerUnavailable`, if the server cannot be reached.
        """
        checked_id(job_id)
        found = await self._state.read(job_id)
        if found is None or found.is_deleted:
            waiting = await self._waiting(job_id)
            if waiting is not None:
                return waiting
            # It may have ended between the two looks; a replica may also lag a moment behind.
            await asyncio.sleep(_AGAIN)
            found = await self._state.read(job_id)
        return self._entry(found, job_id)

    @staticmethod
    def _entry(found: Found | None, job_id: str) -> JobStatusResponse:
        if found is None or found.is_deleted:
            raise JobError.from_not_found(f"no job {job_id} is known", job_id=job_id)
        if found.entry is None:
            raise JobError.from_not_found(f"job {job_id} ended, and its result has expired", job_id=job_id)
        return found.entry

    async def _waiting(self, job_id: str) -> JobStatusResponse | None:
        """A job that no worker has begun yet, as its message, or its schedule, tells it."""
        return await waiting_entry(self._connection, self._names, job_id)

    async def watch(self, job_id: str) -> AsyncGenerator[JobStatusResponse, None]:
        """The status now, and each time it changes, until the job has ended.

        Raises:
            JobError: As `status`.
        """
        last: JobStatusResponse | None = None
        async with aclosing(looks(self._connection, [self._names.state(checked_id(job_id))])) as times:
            async for _ in times:
                try:
                    status = await self.status(job_id)
                except JobError as error:
                    if last is None or not error.is_transient or isinstance(error, ConnectionClosed):
                        raise
                    continue  # an outage: the next look may succeed
                if status != last:
                    last = status
                    yield status
                if status.status.is_terminal:
                    return

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """The updates that are kept, then live ones, until the job has ended.

        Raises:
            JobError: As `status`.
        """

        async def ended() -> bool:
            return (await self.status(job_id)).status.is_terminal

        return follow_progress(self._connection, self._names, job_id, ended)
