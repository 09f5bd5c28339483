"""The part of a service that follows jobs: their status, progress and results."""

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
    from jsjobs.model.job import ProgressUpdate


class Follows(Connections):
    """Look up jobs, and wait until they end."""

    async def status(self, job_id: str) -> JobStatusResponse:
        """Return everything that is known of a job, its history included.

        Raises:
            JobError: `NotFound`, if the id is not known or the job's entry has expired.
        """
        return await self._connected.lookup.status(job_id)

    def watch(self, job_id: str) -> AsyncGenerator[JobStatusResponse, None]:
        """Yield the status of a job now and at each change, until the job has ended.

            async for status in jobs.watch(job_id):
                print(status.status, status.attempts)

        Raises:
            JobError: `NotFound`, if the id is not known or the job's entry has expired; `RunnerUnavailable`, if the
                server cannot be reached at first.
        """
        return self._connected.lookup.watch(job_id)

    async def result(self, job_id: str, timeout: float | None = 30) -> Any:
        """Wait until a job has ended, and return its handler's result as JSON values.

        Args:
            job_id: The job's id.
            timeout: Seconds to wait; None: forever.

        Raises:
            JobError: `Timeout`, if the job has not ended by then; `NotFound`; the job's own reason, if it failed;
                `AlreadyCancelled`, if it was cancelled.
        """
        status = await self._connected.waiter.end(job_id, _limit(timeout))
        if status.status is not Status.COMPLETE:
            raise failure(status)
        return status.result

    async def results(
        self, job_ids: Iterable[str], timeout: float | None = 30, *, return_exceptions: bool = False
    ) -> list[Any]:
        """Wait until many jobs have ended, and return their results in the order of the ids.

            ids = await jobs.submit("image.resize", [{"image": 1}, {"image": 2}])
            sizes = await jobs.results(ids, timeout=60)

        Args:
            job_ids: The ids of any number of jobs, or a single id. Waiting needs no consumer on the server.
            timeout: Seconds to wait for all of them together; None: forever.
            return_exceptions: Whether to return a failed job's error in its place, instead of raising the first one.

        Raises:
            JobError: See `result`; it is the error of the first job that fails, with its `job_id`. `Timeout`, saying
                how many jobs have not ended by then; `Validation`, if `job_ids` is not a collection of ids.
        """
        ids = _checked_ids(job_ids)
        limit, values = _limit(timeout), dict[str, Any]()
        try:
            async with asyncio.timeout(limit), aclosing(self._connected.waiter.each(ids)) as outcomes:
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
        """Yield the final status of each job as it ends, in whatever order the jobs end.

            async for status in jobs.as_ended(ids):
                print(status.job_id, status.status)

        An id that is given twice is yielded once.

        Args:
            job_ids: The ids of the jobs, or a single id.

        Raises:
            JobError: `NotFound`, if an id is not known; `RunnerUnavailable`; `Validation`, if `job_ids` is not a
                collection of ids.
        """
        async with aclosing(self._connected.waiter.each(_checked_ids(job_ids))) as outcomes:
            async for _, outcome in outcomes:
                if isinstance(outcome, JobError):
                    raise outcome
                yield outcome

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """Yield the progress updates that are kept (the last 100), then live ones, until the job has ended.

            async for update in jobs.progress(job_id):
                print(f"{update.pct:.0f}%", update.message)

        An outage is waited out, and loses no update that the server kept.

        Raises:
            JobError: `NotFound`, if the id is not known; `RunnerUnavailable`, if the server cannot be reached at first.
        """
        return self._connected.lookup.progress(job_id)


def _failure_of(status: JobStatusResponse) -> JobError | None:
    return None if status.status is Status.COMPLETE else failure(status)


def _checked_ids(job_ids: Iterable[str]) -> list[str]:
    # To type checkers a str is an iterable of str, and a mapping one of its keys. A str is one id, a mapping its keys.
    given = [job_ids] if isinstance(job_ids, str) else job_ids.keys() if isinstance(job_ids, Mapping) else job_ids
    return [checked_text("a job id", job_id) for job_id in checked_list("the job ids", given)]


def _limit(timeout: float | None) -> float | None:
    limit = None if timeout is None else checked_timeout(timeout)
    return None if limit == math.inf else limit
