"""Draw the parts that the tables of `top` and `queues` have in common."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import plain
from jsjobs.jetstream.monitoring.overview import PartitionLook, PriorityLook, ShardLook
from jsjobs.model.job import Status
from jsjobs.model.queues import PartitionStatus, QueueStatus, RunningJob, ShardStatus
from jsjobs.model.words import things

Shown = ShardLook | ShardStatus | PartitionLook | PartitionStatus

UNKNOWN = "-"
"""Shown in the place of a number that is not known."""


def headed_table(headings: Sequence[str], *, left: set[str]) -> Table:
    """Return a table without lines; the columns named in `left` are left-aligned, all others right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        # A narrow terminal cuts the columns without a heading.
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading != "")
    return table


def counted(number: int, style: str = "") -> Text:
    """Format a number, dim if it is zero."""
    return Text(f"{number:,}", style if number else "dim")


def state_of(look: PriorityLook | QueueStatus, *, paused_how: str = "paused") -> Text:
    """Describe what keeps the jobs of a priority from running; if nothing does, what it consists of."""
    shards, partitions = look.running_shards, look.partitions
    missing = [what for what, there in (("no shards", shards), ("no partitions", partitions)) if not there]
    if missing:
        return Text(", ".join(missing), "bold red")
    trouble = trouble_of([*shards, *partitions], waiting=look.waiting, paused_how=paused_how)
    whole = f"{things(len(shards), 'shard')}, {things(len(partitions), 'partition')}"
    return trouble or cropped(Text(whole, "dim"))


def state_of_shard(shard: ShardLook | ShardStatus, now: datetime, *, paused_how: str = "paused") -> Text:
    """Describe what keeps the jobs of a shard from running: among other things, the job that holds it."""
    if shard.is_next:
        return Text("next", "cyan")
    words = _hindrances([shard], waiting=shard.unfinished, paused_how=paused_how)
    job = shard.held_by
    if job is not None:
        words.append(Text.assemble(plain(" ".join(filter(None, (job.job_id, job.type)))), " ", doing_of(job, now)))
    return cropped(Text(", ").join(words))


def doing_of(job: RunningJob, now: datetime) -> Text:
    """Describe for how long a job runs, or until when it waits."""
    if job.next_attempt_at is not None:
        what, style = ("retry", "yellow") if job.snoozed_until is None else ("again", "cyan")
        wait = (job.next_attempt_at - now).total_seconds()
        return Text(f"{what} in {format_age(wait)}" if wait > 0 else f"{what} due", style)
    age = format_age(max((now - job.since).total_seconds(), 0))
    return Text(age, "green") if job.status is Status.PROCESSING else Text(f"begins {age}", "cyan")


def trouble_of(consumers: Sequence[Shown], *, waiting: int, paused_how: str = "paused") -> Text:
    """Describe what keeps shards and partitions from running jobs, in red where jobs wait for it."""
    words = _hindrances(consumers, waiting=waiting, paused_how=paused_how)
    if retrying := sum(each.retrying for each in consumers):
        words.append(Text(f"{retrying:,} retrying", "yellow"))
    if unread := sum(each.unread for each in consumers if isinstance(each, PartitionLook | PartitionStatus)):
        words.append(Text(f"{unread:,} may be retrying", "yellow"))
    return cropped(Text(", ").join(words))


def _hindrances(consumers: Sequence[Shown], *, waiting: int, paused_how: str) -> list[Text]:
    words = []
    if paused := sum(each.paused for each in consumers):
        words.append(Text(_some(paused, len(consumers), paused_how), "yellow"))
    if alone := sum(not each.has_worker for each in consumers):
        words.append(Text(_some(alone, len(consumers), "no worker"), "bold red" if waiting else "yellow"))
    return words


def _some(count: int, total: int, what: str) -> str:
    return what if count == total else f"{count}/{total} {what}"


def change_of(look: PriorityLook | QueueStatus) -> Text:
    """Describe a change of the shard count: between which counts, and how far it is."""
    old, new = look.running_shards, look.next_shards
    left = sum(shard.unfinished for shard in old)
    before, after = old[0].generation, new[-1].generation
    count = sum(shard.generation == after for shard in new)
    what = f"{look.priority}: {len(old)} to {things(count, 'shard')}; "
    others = sum(shard.unfinished for shard in new)
    behind = f"{others:,} {'waits' if others == 1 else 'wait'}"
    if left:
        return cropped(plain(f"{what}{things(left, 'job')} to drain from {before}, {behind} in {after}", "cyan"))
    return cropped(plain(f"{what}the old ones are empty, {behind} for streams apply", "yellow"))


def cropped(text: Text) -> Text:
    """Cut a text to one line, where the terminal ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
