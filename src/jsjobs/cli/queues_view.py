"""How the queues look: a line for each priority, and one for each of its shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.look_parts import UNKNOWN, change_of, counted, headed_table, shards_of, trouble_of
from jsjobs.cli.output import local_time, plain
from jsjobs.jetstream.overview import Overview, PriorityLook, ShardLook
from jsjobs.jetstream.shard_consumers import FOR_GOOD, UNTIL_RESUMED
from jsjobs.jetstream.subjects import Shard


@dataclass(frozen=True, slots=True)
class Queues:
    """What one look saw."""

    overview: Overview
    oldest: Mapping[Shard, datetime | None]
    """When the job was stored that waits longest in a shard."""

    def picture(self) -> RenderableType:
        """For people."""
        headings = ("priority", "waiting", "oldest", "running", "redelivered", "")
        table = headed_table(headings, left={"priority", ""})
        for look in self.overview.priorities:
            trouble = _trouble(look.running_shards, waiting=look.waiting)
            table.add_row(Text(look.priority, "bold"), *self._numbers(look), trouble or Text(shards_of(look), "dim"))
            alike = len({shard.paused_until for shard in look.running_shards}) == 1
            for shard in look.shards:
                busy = shard.waiting + shard.running
                # What the line above says of all of them is not said again of each.
                trouble = trouble_of([shard], waiting=busy) if alike else _trouble([shard], waiting=busy)
                state = Text("next", "cyan") if shard.is_next else trouble
                table.add_row(Text(f"  {shard.name}", "dim"), *self._numbers(shard), state)
        return Group(table, *(change_of(look) for look in self.overview.priorities if look.next_shards))

    def _numbers(self, look: PriorityLook | ShardLook) -> Iterator[Text]:
        age = self._age(look)
        yield counted(look.waiting)
        yield Text(UNKNOWN, "dim") if age is None else plain(format_age(age))
        yield counted(look.running - look.retrying, "green")
        yield counted(look.redelivered, "yellow")

    def _age(self, look: PriorityLook | ShardLook) -> float | None:
        """Seconds that the job waits which waits longest."""
        looks = [look] if isinstance(look, ShardLook) else look.shards
        oldest = min((moment for each in looks if (moment := self.oldest.get(each.shard))), default=None)
        return None if oldest is None else max(0.0, (look.seen_at - oldest).total_seconds())

    def as_json(self) -> list[dict[str, Any]]:
        """For programs."""
        return [
            {
                "priority": look.priority,
                **self._data(look, look.running_shards),
                "shards": [
                    {
                        "name": shard.name,
                        "generation": str(shard.generation),
                        "is_next": shard.is_next,
                        **self._data(shard, [shard]),
                        "has_worker": shard.has_worker,
                        "is_busy": shard.is_busy,
                    }
                    for shard in look.shards
                ],
            }
            for look in self.overview.priorities
        ]

    def _data(self, look: PriorityLook | ShardLook, shards: Sequence[ShardLook]) -> dict[str, Any]:
        # What holds a shard back while others are drained is no pause of anybody's.
        ends = [shard.paused_until for shard in shards if shard.paused_until not in {None, FOR_GOOD}]
        paused = bool(shards) and len(ends) == len(shards)
        until = min((end for end in ends if end != UNTIL_RESUMED), default=None)
        return {
            "waiting": look.waiting,
            "running": look.running - look.retrying,
            "retrying": look.retrying,
            "redelivered": look.redelivered,
            "oldest_waiting_seconds": self._age(look),
            "paused": paused,
            "paused_until": until.isoformat() if paused and until is not None else None,
        }


def _trouble(shards: Sequence[ShardLook], *, waiting: int) -> Text:
    ends = {shard.paused_until for shard in shards if shard.paused_until is not None}
    how = "paused"
    if len(ends) == 1:
        how += f" until {describe_end(ends.pop())}"
    return trouble_of(shards, waiting=waiting, paused_how=how)


def describe_end(until: datetime | None) -> str:
    """When a pause ends, in words; None and the date that stands for it: when somebody resumes it."""
    return "resumed" if until in {None, UNTIL_RESUMED} else local_time(until)
