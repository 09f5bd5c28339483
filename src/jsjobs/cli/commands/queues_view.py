"""Draw the queues: a line for each priority, and one for each of its shards and partitions."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import local_time, plain
from jsjobs.cli.tables import UNKNOWN, change_of, counted, headed_table, state_of, state_of_shard, trouble_of
from jsjobs.model.queues import PartitionStatus, QueueStatus, ShardStatus


def picture(queues: Sequence[QueueStatus], now: datetime) -> RenderableType:
    """Return a table for people."""
    table = headed_table(("priority", "waiting", "oldest", "running", "redelivered", ""), left={"priority", ""})
    for queue in queues:
        parts: list[ShardStatus | PartitionStatus] = [*queue.running_shards, *queue.partitions]
        table.add_row(Text(queue.priority, "bold"), *_numbers(queue), state_of(queue, paused_how=_pause_of(parts)))
        # What the line above says of all of them is not repeated for each.
        are_alike = len({(each.paused, each.paused_until) for each in parts}) == 1
        for shard in queue.shards:
            how = "paused" if are_alike else _pause_of([shard])
            state = state_of_shard(shard, now, paused_how=how)
            table.add_row(Text(f"  {shard.name}", "dim"), *_numbers(shard), state)
        for partition in queue.partitions:
            how = "paused" if are_alike else _pause_of([partition])
            state = trouble_of([partition], waiting=partition.unfinished, paused_how=how)
            table.add_row(Text(f"  {partition.name}", "dim"), *_numbers(partition), state)
    return Group(table, *(change_of(queue) for queue in queues if queue.next_shards))


def _numbers(status: QueueStatus | ShardStatus | PartitionStatus) -> Iterator[Text]:
    age = status.oldest_waiting_seconds
    yield counted(status.waiting)
    yield Text(UNKNOWN, "dim") if age is None else plain(format_age(age))
    yield counted(status.running, "green")
    yield counted(status.redelivered, "yellow")


def _pause_of(parts: Sequence[ShardStatus | PartitionStatus]) -> str:
    """Return how to say that these are paused: with the end, if all pauses end at the same time."""
    ends = {each.paused_until for each in parts if each.paused}
    return f"paused until {describe_end(ends.pop())}" if len(ends) == 1 else "paused"


def describe_end(until: datetime | None) -> str:
    """Describe when a pause ends; None means when somebody resumes it."""
    return "resumed" if until is None else local_time(until)
