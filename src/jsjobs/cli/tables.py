"""Draw the parts that the tables of `top` and `queues` have in common."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from jsjobs.cli.output import plain
from jsjobs.jetstream.monitoring.overview import PriorityLook, ShardLook
from jsjobs.model.queues import QueueStatus, ShardStatus
from jsjobs.model.words import things

UNKNOWN = "-"
"""Shown in the place of a number that is not known."""


def headed_table(headings: Sequence[str], *, left: set[str]) -> Table:
    """Return a table without lines; the columns named in `left` are left-aligned, all others right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        # A narrow terminal cuts the columns without a heading.
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading != "")
    return table


def shards_of(look: PriorityLook | QueueStatus) -> str:
    """Return how many shards run a priority's jobs, in words."""
    return things(len(look.running_shards), "shard")


def counted(number: int, style: str = "") -> Text:
    """Format a number, dim if it is zero."""
    return Text(f"{number:,}", style if number else "dim")


def trouble_of(shards: Sequence[ShardLook | ShardStatus], *, waiting: int, paused_how: str = "paused") -> Text:
    """Describe what keeps shards from running jobs, in red where jobs wait for it."""
    paused = sum(shard.paused for shard in shards)
    alone = sum(not shard.has_worker for shard in shards)
    busy = sum(shard.is_busy for shard in shards) if waiting else 0
    if not shards:
        return Text("no shards", "bold red")
    words = []
    if paused:
        words.append(Text(_some(paused, len(shards), paused_how), "yellow"))
    if alone:
        words.append(Text(_some(alone, len(shards), "no worker"), "bold red" if waiting else "yellow"))
    retrying = sum(shard.retrying for shard in shards)
    if retrying:
        words.append(Text(f"{retrying:,} retrying", "yellow"))
    if busy:
        words.append(Text(_some(busy, len(shards), "busy"), "yellow"))
    return cropped(Text(", ").join(words))


def _some(count: int, total: int, what: str) -> str:
    return what if count == total else f"{count}/{total} {what}"


def change_of(look: PriorityLook | QueueStatus) -> Text:
    """Describe a change of the shard count: between which counts, and how far it is."""
    old, new = look.running_shards, look.next_shards
    left = sum(shard.unfinished for shard in old)
    before, after = old[0].generation, new[-1].generation
    count = sum(shard.generation == after for shard in new)
    what = f"{look.priority}: {len(old)} to {things(count, 'shard')}; "
    others = look.unfinished - left
    behind = f"{others:,} {'waits' if others == 1 else 'wait'}"
    if left:
        return cropped(plain(f"{what}{things(left, 'job')} to drain from {before}, {behind} in {after}", "cyan"))
    return cropped(plain(f"{what}the old ones are empty, {behind} for streams apply", "yellow"))


def cropped(text: Text) -> Text:
    """Cut a text to one line, where the terminal ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
