"""Draw the queues: a line for each priority, and one for each of its shards."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import local_time, plain
from jsjobs.cli.tables import UNKNOWN, change_of, counted, headed_table, shards_of, trouble_of
from jsjobs.model.queues import QueueStatus, ShardStatus


def picture(queues: Sequence[QueueStatus]) -> RenderableType:
    """Return a table for people."""
    table = headed_table(("priority", "waiting", "oldest", "running", "redelivered", ""), left={"priority", ""})
    for queue in queues:
        trouble = _trouble(queue.running_shards, waiting=queue.waiting)
        table.add_row(Text(queue.priority, "bold"), *_numbers(queue), trouble or Text(shards_of(queue), "dim"))
        alike = len({(shard.paused, shard.paused_until) for shard in queue.running_shards}) == 1
        for shard in queue.shards:
            # What the line above says of all shards is not repeated for each.
            tell = trouble_of if alike else _trouble
            state = Text("next", "cyan") if shard.is_next else tell([shard], waiting=shard.unfinished)
            table.add_row(Text(f"  {shard.name}", "dim"), *_numbers(shard), state)
    return Group(table, *(change_of(queue) for queue in queues if queue.next_shards))


def _numbers(status: QueueStatus | ShardStatus) -> Iterator[Text]:
    age = status.oldest_waiting_seconds
    yield counted(status.waiting)
    yield Text(UNKNOWN, "dim") if age is None else plain(format_age(age))
    yield counted(status.running, "green")
    yield counted(status.redelivered, "yellow")


def _trouble(shards: Sequence[ShardStatus], *, waiting: int) -> Text:
    ends = {shard.paused_until for shard in shards if shard.paused}
    how = "paused"
    if len(ends) == 1:
        how += f" until {describe_end(ends.pop())}"
    return trouble_of(shards, waiting=waiting, paused_how=how)


def describe_end(until: datetime | None) -> str:
    """Describe when a pause ends; None means when somebody resumes it."""
    return "resumed" if until is None else local_time(until)
