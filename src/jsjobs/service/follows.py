"""The part of a service that tells what became of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from jsjobs.jetstream.lookup import Lookup, failure
from jsjobs.jetstream.progress import ProgressUpdate
from jsjobs.jetstream.state import StateStore
from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.service.connections import Connections


class Follows(Connections):
    """Looks jobs up and waits for their ends."""

    async def status(self, job_id: str) -> JobStatusResponse:
        """All that is known of a job, its history included.

        Raises:
            JobError: `NotFound`, if the id is not known or the job's entry has expired.
        """
        return await self._lookup().status(job_id)

    def watch(self, job_id: str) -> AsyncGenerator[JobStatusResponse, None]:
        """The status now and at each change, until the job has ended."""
        return self._lookup().watch(job_id)

    async def result(self, job_id: str, timeout: float | None = 30) -> Any:
        """Wait for the job's end and return its handler's result, as JSON values.

        Args:
            job_id: The job.
            timeout: Seconds to wait; None: for ever.

        Raises:
            JobError: `Timeout`, if it has not ended by then; `NotFound`; the job's own reason if it failed;
                `AlreadyCancelled` if it was cancelled.
        """
        status = await self._lookup().end(job_id, timeout)
        if status.status is not Status.COMPLETE:
            raise failure(status)
        return status.result

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """The progress updates that are kept (the last 100), then live ones, until the job has ended."""
        return self._lookup().progress(job_id)

    def _lookup(self) -> Lookup:
        connection = self._connected()
        return Lookup(connection, self._names, StateStore(connection, self._names))
