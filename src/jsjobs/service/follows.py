"""The part of a service that tells what became of jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from jsjobs.model.checks import checked_list, checked_text, checked_timeout
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Status, failure
from jsjobs.model.words import things
from jsjobs.service.connections import Connections

if TYPE_CHECKING:
    from jsjobs.jetstream.ends import Ends
    from jsjobs.jetstream.lookup import Lookup
    from jsjobs.model.progress import ProgressUpdate


class Follows(Connections):
    """Looks jobs up and waits for their ends."""

    _shared_ends: Ends | None = None
    """Of the present connection, for all who wait."""

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
        status = await self._ends().end(job_id, _limit(timeout))
        if status.status is not Status.COMPLETE:
            raise failure(status)
        return status.result

    async def results(
        self, job_ids: Iterable[str], timeout: float | None = 30, *, return_exceptions: bool = False
    ) -> list[Any]:
        """Wait for the ends of many jobs and return their results, in the order of the ids.

        Args:
            job_ids: The jobs, or one; any number of them, needing no consumer on the server.
            timeout: Seconds to wait for all of them together; None: for ever.
            return_exceptions: Give a failed job's error in its place, instead of raising the first one.

        Raises:
            JobError: As `result`, of the first job that fails, with its `job_id`; `Timeout`, saying how many have not
                ended by then; `Validation`, if what is given is no collection of ids.
        """
        ids = _checked_ids(job_ids)
        limit, values = _limit(timeout), dict[str, Any]()
        try:
            async with asyncio.timeout(limit), aclosing(self._ends().each(ids)) as outcomes:
                async for job_id, outcome in outcomes:
                    error = outcome if isinstance(outcome, JobError) else _failure_of(outcome)
                    if error is not None and not return_exceptions:
                        raise error
                    values[job_id] = error or outcome.result  # type: ignore[union-attr]
        except TimeoutError as error:
            late = [job_id for job_id in dict.fromkeys(ids) if job_id not in values]
            if not return_exceptions:
                raise JobError.from_timeout(
                    f"{len(late)} of {things(len(set(ids)), 'job')} not ended after {limit:g} s, such as {late[0]}",
                    job_id=late[0],
                ) from error
            for job_id in late:
                values[job_id] = JobError.from_timeout(f"job {job_id} has not ended after {limit:g} s", job_id=job_id)
        return [values[job_id] for job_id in ids]

    async def as_ended(self, job_ids: Iterable[str]) -> AsyncGenerator[JobStatusResponse, None]:
        """The final status of each job, as they end, in whatever order that is; an id that comes twice is told once.

        Args:
            job_ids: The jobs, or one.

        Raises:
            JobError: `NotFound`, if an id is not known; `RunnerUnavailable`; `Validation`, if what is given is no
                collection of ids.
        """
        async with aclosing(self._ends().each(_checked_ids(job_ids))) as outcomes:
            async for _, outcome in outcomes:
                if isinstance(outcome, JobError):
                    raise outcome
                yield outcome

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """The progress updates that are kept (the last 100), then live ones, until the job has ended.

        An outage is waited out, and costs no update that the server kept.

        Raises:
            JobError: `NotFound`, if the id is not known; `RunnerUnavailable`, if the server cannot be reached at first.
        """
        return self._lookup().progress(job_id)

    def _lookup(self) -> Lookup:
        from jsjobs.jetstream.lookup import Lookup
        from jsjobs.jetstream.state import StateStore

        connection = self.connection
        return Lookup(connection, self._names, StateStore(connection, self._names))

    def _ends(self) -> Ends:
        connection = self.connection
        connection.home.check()  # before anybody of this loop stands in the table of that one
        if self._shared_ends is None or self._shared_ends.connection is not connection:
            from jsjobs.jetstream.ends import Ends

            self._shared_ends = Ends(connection, self._names)
        return self._shared_ends


def _failure_of(status: JobStatusResponse) -> JobError | None:
    return None if status.status is Status.COMPLETE else failure(status)


def _checked_ids(job_ids: Iterable[str]) -> list[str]:
    # A text is an iterable of texts to type checkers, and a mapping one of its keys: both are what they seem to be.
    given = [job_ids] if isinstance(job_ids, str) else job_ids.keys() if isinstance(job_ids, Mapping) else job_ids
    return [checked_text("a job id", job_id) for job_id in checked_list("the job ids", given)]


def _limit(timeout: float | None) -> float | None:
    limit = None if timeout is None else checked_timeout(timeout)
    return None if limit == math.inf else limit
