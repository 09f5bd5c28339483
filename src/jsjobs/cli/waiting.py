"""Waiting for jobs to end, with a bar for the person who watches."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jsjobs import JobService
from jsjobs.cli.output import plain
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse

_AGAIN = 0.5


class _Bar:
    """The bar of one job or of a batch."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def show(self, *, done: float | None = None, text: str | None = None) -> None:
        """Show how far it is; what is not given stays."""
        if text is not None:
            self._progress.update(self._task, description=plain(text).plain)
        if done is not None:
            self._progress.update(self._task, completed=done)


@asynccontextmanager
async def _bar(total: float, text: str, *, shown: bool) -> AsyncIterator[_Bar]:
    # A bar is talk: it goes to standard error, and disappears when the result is there.
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and sys.stderr.isatty())) as progress:
        yield _Bar(progress, progress.add_task(text, total=total))


async def wait_for_one(service: JobService, job_id: str, *, shown: bool) -> JobStatusResponse:
    """Wait for a job's end and tell how it ended."""
    async with _bar(100, "queued", shown=shown) as bar:
        following = asyncio.ensure_future(_follow(service, job_id, bar))
        try:
            return await _end(service, job_id, bar)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def wait_for_all(service: JobService, job_ids: Sequence[str], *, shown: bool) -> list[JobStatusResponse]:
    """Wait for the end of every job of a batch."""
    ended = []
    async with _bar(len(job_ids), f"0 of {len(job_ids)} jobs", shown=shown) as bar:
        for job_id in job_ids:
            ended.append(await _end(service, job_id))
            bar.show(done=len(ended), text=f"{len(ended)} of {len(job_ids)} jobs")
    return ended


async def _end(service: JobService, job_id: str, bar: _Bar | None = None) -> JobStatusResponse:
    async with aclosing(service.watch(job_id)) as changes:
        async for status in changes:
            if bar is not None:
                attempt = f", attempt {status.attempts}" if status.attempts > 1 else ""
                bar.show(text=f"{status.status}{attempt}")
            if status.status.is_terminal:
                return status
    raise AssertionError("a watch ends with the job's end")


async def _follow(service: JobService, job_id: str, bar: _Bar) -> None:
    while True:
        try:
            async with aclosing(service.progress(job_id)) as updates:
                async for update in updates:
                    bar.show(done=update.pct, text=update.message)
            return
        except JobError:
            # The bar is a comfort: an outage must not end the waiting.
            await asyncio.sleep(_AGAIN)
