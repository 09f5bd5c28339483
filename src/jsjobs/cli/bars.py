"""A progress bar for the person at a terminal; none in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column

from jsjobs.cli.output import end_silence, plain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """One bar, with how far it is, a time, and a text."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.is_shown = not progress.disable
        self._progress = progress
        self._task = task

    def show(self, *, done: float | None = None, text: str | None = None) -> None:
        """Show how far it is; what is not given stays."""
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
    """A bar on standard error, where that is a terminal: it is talk, not data.

    Args:
        total: What `done` counts to.
        text: Said behind it at first.
        shown: Whether it is shown at all.
        stays: Whether it stands on the terminal when it is over; else it disappears.
        counted: Whether it says how many are done and how long the rest takes; else the percentage and the time so far.
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
        # What is printed meanwhile stands above the bar, but data for a file or a pipe goes there.
        redirect_stdout=sys.stdout.isatty(),
    ) as made:
        yield Bar(made, made.add_task(text, total=total))
