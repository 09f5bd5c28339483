"""Wait for jobs to end, with a progress bar for the person at a terminal, and none in a pipe."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column

from jsjobs import JobService
from jsjobs.cli.output import end_silence, plain, talk
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.words import things

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_AGAIN = 0.5


class Bar:
    """A progress bar, with a time and a text."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.is_shown = not progress.disable
        self._progress = progress
        self._task = task

    def show(self, *, done: float | None = None, text: str | None = None) -> None:
        """Update the bar; an argument that is not given stays as it is."""
        if text is not None:
            # On one line, whatever a handler reports.
            self._progress.update(self._task, description=plain(" ".join(text.split())).plain)
        if done is not None:
            self._progress.update(self._task, completed=done)

    def advance(self) -> None:
        """Show one more as done."""
        self._progress.advance(self._task)


@contextmanager
def bar(total: float, text: str, *, shown: bool = True, stays: bool = False, counted: bool = False) -> Iterator[Bar]:
    """Show a bar on standard error if that is a terminal; a bar is a message, not data.

    Args:
        total: The value of `done` at the end.
        text: The text behind the bar at first.
        shown: Whether the bar is shown at all.
        stays: Whether the bar stays on the terminal when it has ended; otherwise it disappears.
        counted: Whether it shows how many are done and how long the rest takes, instead of the percentage and the time
            so far.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    how_far = (
        (MofNCompleteColumn(), TimeRemainingColumn())
        if counted
        else (TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    )
    columns = (
        BarColumn(bar_width=30),
        *how_far,
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    if shown:
        end_silence()
    disable = not (shown and sys.stderr.isatty())
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=not stays,
        disable=disable,
        expand=True,
        # What is printed meanwhile appears above the bar; but data for a file or a pipe must go there.
        redirect_stdout=sys.stdout.isatty(),
    ) as made:
        yield Bar(made, made.add_task(text, total=total))


async def wait_for_one(service: JobService, job_id: str, *, shown: bool) -> JobStatusResponse:
    """Wait until a job has ended, and return its final status."""
    with bar(100, "queued", shown=shown) as shown_bar:
        following = asyncio.ensure_future(_follow(service, job_id, shown_bar))
        try:
            return await _end(service, job_id, shown_bar)
        except asyncio.CancelledError:
            talk(f"no longer waiting; the job continues: `jsjobs status {job_id}`, `jsjobs cancel {job_id}`")
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def wait_for_all(service: JobService, job_ids: Sequence[str], *, shown: bool) -> list[JobStatusResponse]:
    """Wait until every job of a batch has ended, and return their statuses in the order of the ids."""
    ended: dict[str, JobStatusResponse] = {}
    total = len(set(job_ids))
    with bar(total, f"0 of {things(total, 'job')}", shown=shown) as shown_bar:
        try:
            async with aclosing(service.as_ended(job_ids)) as statuses:
                async for status in statuses:
                    ended[status.job_id] = status
                    shown_bar.show(done=len(ended), text=f"{len(ended):,} of {things(total, 'job')}")
        except asyncio.CancelledError:
            talk(f"no longer waiting for {total - len(ended):,} of {things(total, 'job')}; they continue")
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
            # The bar is a convenience: an outage must not end the waiting.
            await asyncio.sleep(_AGAIN)
