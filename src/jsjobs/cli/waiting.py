"""Waiting for jobs to end, with a bar for the person who watches."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from jsjobs import JobService
from jsjobs.cli.bars import Bar, bar
from jsjobs.cli.output import talk
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.words import things

_AGAIN = 0.5


async def wait_for_one(service: JobService, job_id: str, *, shown: bool) -> JobStatusResponse:
    """Wait for a job's end and tell how it ended."""
    with bar(100, "queued", shown=shown) as shown_bar:
        following = asyncio.ensure_future(_follow(service, job_id, shown_bar))
        try:
            return await _end(service, job_id, shown_bar)
        except asyncio.CancelledError:
            talk(f"no longer waiting; the job goes on: `jsjobs status {job_id}`, `jsjobs cancel {job_id}`")
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def wait_for_all(service: JobService, job_ids: Sequence[str], *, shown: bool) -> list[JobStatusResponse]:
    """Wait for the end of every job of a batch; their statuses in the order of the ids."""
    ended: dict[str, JobStatusResponse] = {}
    total = len(set(job_ids))
    with bar(total, f"0 of {things(total, 'job')}", shown=shown) as shown_bar:
        try:
            async with aclosing(service.as_ended(job_ids)) as statuses:
                async for status in statuses:
                    ended[status.job_id] = status
                    shown_bar.show(done=len(ended), text=f"{len(ended):,} of {things(total, 'job')}")
        except asyncio.CancelledError:
            talk(f"no longer waiting for {total - len(ended):,} of {things(total, 'job')}; they go on")
            raise
    return [ended[job_id] for job_id in job_ids]


async def _end(service: JobService, job_id: str, shown_bar: Bar) -> JobStatusResponse:
    async with aclosing(service.watch(job_id)) as changes:
        async for status in changes:
            attempt = f", attempt {status.attempts}" if status.attempts > 1 else ""
            shown_bar.show(text=f"{status.status}{attempt}")
            if status.status.is_terminal:
                return status
    raise AssertionError("a watch ends with the job's end")


async def _follow(service: JobService, job_id: str, shown_bar: Bar) -> None:
    while True:
        try:
            async with aclosing(service.progress(job_id)) as updates:
                async for update in updates:
                    shown_bar.show(done=update.pct, text=update.message)
            return
        except JobError:
            # The bar is a comfort: an outage must not end the waiting.
            await asyncio.sleep(_AGAIN)
