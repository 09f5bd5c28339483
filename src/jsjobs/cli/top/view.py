"""Draw `jsjobs top`: tables that fit the terminal, and what its keys change."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import local_time, on_terminal, plain
from jsjobs.cli.tables import UNKNOWN, change_of, counted, cropped, headed_table, shards_of, trouble_of
from jsjobs.cli.top.poller import OpenLetters, Seen
from jsjobs.cli.top.poller import Table as LetterTable
from jsjobs.jetstream.monitoring.overview import Overview
from jsjobs.jetstream.monitoring.running_jobs import RunningJob
from jsjobs.model.job import Priority, Status

T = TypeVar("T")

_WIDE = 110
"""The width in columns from which a running job's tenant, shard and worker are shown too."""
_FEW = 10
"""Rates below this are shown with a decimal."""
_AROUND = 5
"""Lines beside the tables: the title, the letters, the keys, an empty one, and one for an outage."""
_HEADINGS = 2
"""Lines of the lower table beside its rows: the heading, and the line that says how much is left out."""


@dataclass(slots=True)
class View:
    """The view that the keys have chosen."""

    about: str
    """The text at the upper right: the server and the interval."""
    shards: bool = False
    """Whether shards are shown instead of running jobs."""
    fullest_first: bool = False

    def press(self, key: str) -> None:
        """Change the view as the key asks."""
        if key == "s":
            self.shards = not self.shards
        elif key == "o":
            self.fullest_first = not self.fullest_first


def running_shown(height: int) -> int:
    """Return how many running jobs fit on a screen with this many lines."""
    return max(1, height - _AROUND - _HEADINGS - len(Priority) - 1)


def picture(seen: Seen, view: View, width: int, height: int) -> RenderableType:
    """Draw the whole screen."""
    overview = seen.overview
    head = [_beside(_title(seen), plain(view.about, "dim"), width), _outage(seen)]
    keys = Text(f"q quit   s {'running jobs' if view.shards else 'shards'}" + ("   o order" * view.shards), "dim")
    if overview is None:
        return _above(keys, *head)
    parts: list[RenderableType] = [*head, _priorities(overview)]
    changes = [change_of(look) for look in overview.priorities if look.next_shards]
    parts += [*changes, _letters(overview, seen.letters), Text()]
    room = height - _AROUND - _HEADINGS - len(overview.priorities) - 1 - len(changes)
    if view.shards:
        parts.append(_shards(overview, room, fullest_first=view.fullest_first))
    else:
        parts.append(_running(overview, room, wide=width >= _WIDE))
    return _above(keys, *parts)


def lines_of(seen: Seen) -> RenderableType:
    """Draw one look for a pipe: all of it, without colours and keys."""
    overview = seen.overview
    if overview is None or seen.failing_since is not None:
        return _outage(seen)
    changes = [change_of(look) for look in overview.priorities if look.next_shards]
    parts: list[RenderableType] = [_title(seen), _priorities(overview), *changes, _letters(overview, seen.letters)]
    if overview.running or overview.running_not_listed:
        parts.append(_running(overview, len(overview.running), wide=True))
    return Group(*parts)


def _above(keys: Text, *parts: RenderableType) -> Layout:
    """Put the keys on the last line, and the rest above as far as it fits."""
    whole = Layout()
    whole.split_column(Layout(Group(*parts)), Layout(keys, size=1))
    return whole


def _title(seen: Seen) -> Text:
    if seen.overview is None:
        return Text()
    return cropped(Text.assemble(plain(seen.overview.namespace, "bold"), "  ", local_time(seen.overview.at)))


def _outage(seen: Seen) -> Text:
    if seen.failing_since is None:
        return Text()
    state = "no answer" if seen.connected else "disconnected"
    return cropped(plain(f"{state} since {local_time(seen.failing_since)}: {_one_line(seen.reason)}", "bold red"))


def _priorities(overview: Overview) -> Table:
    headings = ("priority", "waiting", "oldest", "running", "redelivered", "in/s", "out/s", "")
    table = headed_table(headings, left={"priority", ""})
    for look in overview.priorities:
        age = look.oldest_waiting_seconds
        table.add_row(
            Text(look.priority, "bold"),
            counted(look.waiting),
            Text(UNKNOWN, "dim") if age is None else Text(format_age(age)),
            counted(look.running - look.retrying, "green"),
            counted(look.redelivered, "yellow"),
            _rate(look.submitted_per_second),
            _rate(look.finished_per_second),
            trouble_of(look.running_shards, waiting=look.waiting) or Text(shards_of(look), "dim"),
        )
    return table


def _letters(overview: Overview, letters: OpenLetters) -> Text:
    waiting = overview.letters_waiting
    on_the_way = Text(f"{waiting:,} pending", "yellow" if waiting else "dim")
    match letters.table:
        case LetterTable.REACHED:
            count = letters.count or 0
            in_table = Text(f"{count:,} open in Postgres", "red" if count else "dim")
        case LetterTable.NONE:
            in_table = Text("no database", "dim")
        case LetterTable.ASKED:
            in_table = Text("asking Postgres", "dim")
        case LetterTable.MISSING:
            in_table = Text("Postgres not migrated", "yellow")
        case LetterTable.UNREACHABLE:
            in_table = Text("Postgres unreachable", "bold red")
    return Text.assemble(("letters", "bold"), "   ", on_the_way, ", ", in_table)


def _running(overview: Overview, room: int, *, wide: bool) -> RenderableType:
    """Draw as many running jobs as fit, and how many more there are."""
    jobs, hidden = list(overview.running), overview.running_not_listed
    if not jobs and not hidden:
        return Text("nothing is running", "dim")
    shown = _fitting(jobs, room, hidden)
    table = headed_table(("running", "", "try", "type", "entity"), left={"running", "type", "entity"})
    # On a terminal these columns take the room that the others leave; in a pipe nothing is cut.
    table.expand = sys.stdout.isatty()
    for column in table.columns[3:]:
        column.ratio, column.overflow = 1, "ellipsis"
    if wide:
        for heading in ("tenant", "shard", "worker"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=on_terminal(28))
    for job in shown:
        tries = f"{job.attempt}/{job.max_attempts}"
        cells = [
            _doing(job, overview.at),
            Text(tries, "yellow" if job.attempt > 1 else ""),
            *_cells(job.type, job.entity),
        ]
        more = _cells(job.tenant, job.shard, job.worker) if wide else []
        table.add_row(*_cells(job.job_id), *cells, *more)
    return _with_rest(table, hidden + len(jobs) - len(shown), "running")


def _doing(job: RunningJob, now: datetime) -> Text:
    if job.next_attempt_at is not None:
        what, style = ("retry", "yellow") if job.snoozed_until is None else ("again", "cyan")
        wait = (job.next_attempt_at - now).total_seconds()
        return Text(f"{what} in {format_age(wait)}" if wait > 0 else f"{what} due", style)
    age = format_age(max((now - job.since).total_seconds(), 0))
    return Text(age, "green") if job.status is Status.PROCESSING else Text(f"begins {age}", "cyan")


def _shards(overview: Overview, room: int, *, fullest_first: bool) -> RenderableType:
    shards = [shard for look in overview.priorities for shard in look.shards]
    if fullest_first:
        shards.sort(key=lambda shard: -shard.unfinished)
    shown = _fitting(shards, room)
    table = headed_table(("shard", "waiting", "running", "redelivered", "deliveries/s", ""), left={"shard", ""})
    for shard in shown:
        trouble = Text("next", "cyan") if shard.is_next else trouble_of([shard], waiting=shard.unfinished)
        counts = (
            counted(shard.waiting),
            counted(shard.running - shard.retrying, "green"),
            counted(shard.redelivered, "yellow"),
        )
        table.add_row(Text(shard.name), *counts, _rate(shard.deliveries_per_second), trouble)
    return _with_rest(table, len(shards) - len(shown), "shards")


def _fitting(items: Sequence[T], room: int, hidden: int = 0) -> Sequence[T]:
    """Return the items that fit above the line about the rest, or also in its place where there is no rest."""
    return items if not hidden and len(items) <= room + 1 else items[: max(room, 0)]


def _with_rest(table: Table, hidden: int, what: str) -> RenderableType:
    return Group(table, Text(f"… and {hidden:,} more {what}", "dim")) if hidden else table


def _cells(*texts: str | None) -> list[Text]:
    return [plain(_one_line(text or "")) for text in texts]


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _rate(rate: float | None) -> Text:
    if rate is None:
        return Text(UNKNOWN, "dim")
    text = f"{rate:.1f}" if 0 < rate < _FEW else f"{rate:,.0f}"
    return Text(text, "" if rate else "dim")


def _beside(left: Text, right: Text, width: int) -> Text:
    space = width - left.cell_len - right.cell_len
    return Text.assemble(left, " " * space, right) if space > 1 else left
