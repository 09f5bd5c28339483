"""Draw `jsjobs top`: tables that fit the terminal, and what its keys change."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.table import Table as RichTable
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import local_time, on_terminal, plain
from jsjobs.cli.tables import (
    UNKNOWN,
    change_of,
    counted,
    cropped,
    doing_of,
    headed_table,
    state_of,
    state_of_shard,
    trouble_of,
)
from jsjobs.cli.top.poller import OpenLetters, Seen
from jsjobs.cli.top.poller import Table as LetterTable
from jsjobs.jetstream.monitoring.overview import ConsumerLook, Overview, PartitionLook, ShardLook
from jsjobs.model.job import Priority

C = TypeVar("C", bound=ConsumerLook)
T = TypeVar("T")

_WIDE = 110
"""The width in columns from which a running job's tenant, consumer and worker are shown too."""
_FEW = 10
"""Rates below this are shown with a decimal."""
_AROUND = 5
"""Lines beside the tables: the title, the letters, the keys, an empty one, and one for an outage."""
_HEADINGS = 2
"""Lines of the lower table beside its rows: the heading, and the line that says how much is left out."""


class Table(StrEnum):
    """The tables that the lower part of the screen can show."""

    RUNNING = "running jobs"
    SHARDS = "shards"
    PARTITIONS = "partitions"


_KEYS = {"s": Table.SHARDS, "p": Table.PARTITIONS}


@dataclass(slots=True)
class View:
    """The view that the keys have chosen."""

    about: str
    """The text at the upper right: the server and the interval."""
    table: Table = Table.RUNNING
    """The table that is shown below the priorities."""
    fullest_first: bool = False

    def press(self, key: str) -> None:
        """Change the view as the key asks."""
        if key in _KEYS:
            chosen = _KEYS[key]
            self.table = Table.RUNNING if self.table is chosen else chosen
        elif key == "o":
            self.fullest_first = not self.fullest_first

    @property
    def keys(self) -> str:
        """Return what the keys do now."""
        tables = (f"{key} {Table.RUNNING if self.table is table else table}" for key, table in _KEYS.items())
        return "   ".join(["q quit", *tables, *(["o order"] if self.table is not Table.RUNNING else [])])


def running_shown(height: int) -> int:
    """Return how many running jobs fit on a screen with this many lines."""
    return max(1, height - _AROUND - _HEADINGS - len(Priority) - 1)


def picture(seen: Seen, view: View, width: int, height: int) -> RenderableType:
    """Draw the whole screen."""
    overview = seen.overview
    head = [_beside(_title(seen), plain(view.about, "dim"), width), _outage(seen)]
    keys = Text(view.keys, "dim")
    if overview is None:
        return _above(keys, *head)
    parts: list[RenderableType] = [*head, _priorities(overview)]
    changes = [change_of(look) for look in overview.priorities if look.next_shards]
    parts += [*changes, _letters(overview, seen.letters), Text()]
    room = height - _AROUND - _HEADINGS - len(overview.priorities) - 1 - len(changes)
    match view.table:
        case Table.RUNNING:
            parts.append(_running(overview, room, wide=width >= _WIDE))
        case Table.SHARDS:
            parts.append(_shards(overview, room, fullest_first=view.fullest_first))
        case Table.PARTITIONS:
            parts.append(_partitions(overview, room, fullest_first=view.fullest_first))
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


def _priorities(overview: Overview) -> RichTable:
    headings = ("priority", "waiting", "oldest", "running", "redelivered", "in/s", "out/s", "")
    table = headed_table(headings, left={"priority", ""})
    for look in overview.priorities:
        age = look.oldest_waiting_seconds
        table.add_row(
            Text(look.priority, "bold"),
            counted(look.waiting),
            Text(UNKNOWN, "dim") if age is None else Text(format_age(age)),
            counted(look.running, "green"),
            counted(look.redelivered, "yellow"),
            _rate(look.submitted_per_second),
            _rate(look.finished_per_second),
            state_of(look),
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
        for heading in ("tenant", "consumer", "worker"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=on_terminal(28))
    for job in shown:
        tries = f"{job.attempt}/{job.max_attempts}"
        cells = [
            doing_of(job, overview.at),
            Text(tries, "yellow" if job.attempt > 1 else ""),
            *_cells(job.type, job.entity),
        ]
        more = _cells(job.tenant, job.consumer, job.worker) if wide else []
        table.add_row(*_cells(job.job_id), *cells, *more)
    return _with_rest(table, hidden + len(jobs) - len(shown), "running")


def _shards(overview: Overview, room: int, *, fullest_first: bool) -> RenderableType:
    shards = _ordered([shard for look in overview.priorities for shard in look.shards], fullest_first=fullest_first)
    shown = _fitting(shards, room)
    table = _consumers_table("shard")
    for shard in shown:
        table.add_row(*_numbers(shard), state_of_shard(shard, overview.at))
    return _with_rest(table, len(shards) - len(shown), "shards")


def _partitions(overview: Overview, room: int, *, fullest_first: bool) -> RenderableType:
    found = _ordered([one for look in overview.priorities for one in look.partitions], fullest_first=fullest_first)
    shown = _fitting(found, room)
    table = _consumers_table("partition")
    for partition in shown:
        table.add_row(*_numbers(partition), trouble_of([partition], waiting=partition.unfinished))
    return _with_rest(table, len(found) - len(shown), "partitions")


def _consumers_table(what: str) -> RichTable:
    return headed_table((what, "waiting", "running", "redelivered", "deliveries/s", ""), left={what, ""})


def _ordered(looks: list[C], *, fullest_first: bool) -> list[C]:
    return sorted(looks, key=lambda look: -look.unfinished) if fullest_first else looks


def _numbers(look: ShardLook | PartitionLook) -> tuple[Text, ...]:
    return (
        Text(look.name),
        counted(look.waiting),
        counted(look.running, "green"),
        counted(look.redelivered, "yellow"),
        _rate(look.deliveries_per_second),
    )


def _fitting(items: Sequence[T], room: int, hidden: int = 0) -> Sequence[T]:
    """Return the items that fit above the line about the rest, or also in its place where there is no rest."""
    return items if not hidden and len(items) <= room + 1 else items[: max(room, 0)]


def _with_rest(table: RichTable, hidden: int, what: str) -> RenderableType:
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
