"""Show the progress of a change of shard counts to the person who waits for it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from jsjobs.cli.output import plain, talk
from jsjobs.jetstream.topology.reshard import Draining
from jsjobs.model.job import Priority
from jsjobs.model.words import things

_SAY_EVERY = 10.0
"""Seconds between two lines where there is no terminal for a bar, while nothing else changes."""


@contextmanager
def shown_draining() -> Iterator[Callable[[Draining], None]]:
    """Yield a function that shows what is left: as a bar for each priority, or a line now and then in a pipe."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    columns = (
        TextColumn("{task.fields[shards]}"),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(progress).show


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Priority, TaskID] = {}
        self._most: dict[Priority, int] = {}

    def show(self, draining: Draining) -> None:
        priority = draining.priority
        if priority not in self._tasks:
            self._tasks[priority] = self._progress.add_task("", total=1, shards=_shards(draining))
        most = self._most[priority] = max(self._most.get(priority, 1), draining.left)
        text = plain(_text(draining)).plain
        self._progress.update(
            self._tasks[priority],
            total=most,
            completed=most - draining.left,
            description=text,
            shards=_shards(draining),
        )


class _Lines:
    def __init__(self) -> None:
        self._said: dict[Priority, tuple[str, float]] = {}

    def show(self, draining: Draining) -> None:
        state = "done" if draining.left == 0 else draining.waits_for
        said, when = self._said.get(draining.priority, ("never", 0.0))
        if said != state or time.monotonic() - when > _SAY_EVERY:
            self._said[draining.priority] = (state, time.monotonic())
            talk(f"{_shards(draining)}: {_text(draining)}")


def _shards(draining: Draining) -> str:
    return f"{draining.priority} {draining.old.shards} → {things(draining.new.shards, 'shard')}"


def _text(draining: Draining) -> str:
    if not draining.left:
        return "the old shards are drained"
    waits = f" ({draining.waits_for})" if draining.waits_for else ""
    return f"{things(draining.left, 'job')} left in the old{waits}"
