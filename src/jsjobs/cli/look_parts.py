"""What the pictures of `top` and `queues` have in common."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from jsjobs.cli.output import plain
from jsjobs.jetstream.overview import PriorityLook, ShardLook
from jsjobs.model.words import things

UNKNOWN = "-"
"""In the place of a number that there is none of."""


def headed_table(headings: Sequence[str], *, left: set[str]) -> Table:
    """A table without lines; the columns named in `left` stand to the left, all others to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        # Words without a heading are what a narrow terminal cuts.
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading != "")
    return table


def shards_of(look: PriorityLook) -> str:
    """How many shards run a priority's jobs."""
    return things(len(look.running_shards), "shard")


def counted(number: int, style: str = "") -> Text:
    """A number, dim where it is zero."""
    return Text(f"{number:,}", style if number else "dim")


def trouble_of(shards: Sequence[ShardLook], *, waiting: int, paused_how: str = "paused") -> Text:
    """What keeps shards from running jobs, in words; red where jobs wait for it."""
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


def change_of(look: PriorityLook) -> Text:
    """The shard count is being changed: what for, and how far it is."""
    old, new = look.running_shards, look.next_shards
    left = sum(shard.waiting + shard.running for shard in old)
    before, after = old[0].generation, new[-1].generation
    what = f"{look.priority}: {len(old)} to {things(after.shards, 'shard')}; "
    others = look.waiting + look.running - left
    behind = f"{others:,} {'waits' if others == 1 else 'wait'}"
    if left:
        return cropped(plain(f"{what}{things(left, 'job')} to drain from {before}, {behind} in {after}", "cyan"))
    return cropped(plain(f"{what}the old ones are empty, {behind} for streams apply", "yellow"))


def cropped(text: Text) -> Text:
    """The text on one line, cut where the terminal ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
