"""Find settings that nobody gives and for which the server has another value than the default: it is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import TypeAdapter, ValidationError

from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.declaration import NANOSECONDS
from jsjobs.jetstream.topology.generations import live_shards, read_live
from jsjobs.jetstream.topology.partitions import partition_count
from jsjobs.model.job import Priority
from jsjobs.model.lanes import ORDERED, PARALLEL, QUEUES
from jsjobs.settings import DEFAULT_POOLS, Config


@dataclass(frozen=True, slots=True)
class Unasked:
    """A setting that nobody gives, and that is kept as the server has it."""

    setting: str
    """The name in `Config`."""
    there: Any
    """The server's value."""
    default: Any
    priority: Priority | None = None
    """The priority whose shards it concerns; None for a setting that all priorities share."""

    @property
    def where(self) -> str:
        """Return the setting's name, or the shards that it concerns."""
        return self.setting if self.priority is None else f"shards {self.priority}"

    @property
    def variable(self) -> str:
        """Return the environment variable that gives the setting."""
        return f"JSJOBS_{self.setting.upper()}"

    def __str__(self) -> str:
        """Describe both values, and that the server's is kept."""
        there, default = (
            f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in (self.there, self.default)
        )
        return f"{self.where}: the server has {there}, which is kept; the default would be {default}"


async def keep_unasked(connection: Connection, names: Names, config: Config) -> tuple[Config, list[Unasked]]:
    """Return the settings, completed with the server's values where nobody gives one, and those that are not defaults.

    The value that most of the queues have counts. A queue that was changed on its own differs from the others, and so
    from what is declared.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached; `Validation`, if the generations of a priority
            cannot be read.
    """
    streams = [*map(names.queue, QUEUES), names.state_stream]
    infos = await asyncio.gather(*(find_stream(connection, stream) for stream in streams))
    lanes = [(queue, info) for queue, info in zip(PARALLEL, infos[len(ORDERED) : -1], strict=True) if info is not None]
    queues = [info.config for info in infos[: len(ORDERED)] if info is not None]
    shards = [info.config for info in (await live_shards(connection, names)).values()] if queues else []
    copies = [info.config.num_replicas for info in infos if info is not None]
    found = {
        "replicas": max(copies, default=None),  # a queue whose shards are being changed has fewer for a moment
        "queue_bytes": _most(queue.max_bytes for queue in queues),
        "lane_bytes": _most(info.config.max_bytes for _, info in lanes),
        "partitions": _most(partition_count(names, queue.priority, info) for queue, info in lanes),
        "capacity": _most(queue.max_msgs_per_subject for queue in queues),
        "duplicate_window": _seconds(_most(queue.duplicate_window for queue in queues)),
        "ack_wait": _seconds(_most(shard.ack_wait for shard in shards)),
        "max_deliver": _most(shard.max_deliver for shard in shards),
    }
    kept = [
        Unasked(name, there, getattr(config, name))
        for name, there in found.items()
        if name not in config.model_fields_set and there != getattr(config, name) and _is_valid(name, there)
    ]
    pools = await _pools(connection, names, config)
    kept += [
        Unasked("pools", count, DEFAULT_POOLS[one], one) for one, count in pools.items() if count != config.shards(one)
    ]
    values = {one.setting: one.there for one in kept if one.priority is None}
    return config.model_copy(update={**values, "pools": {**config.pools, **pools}}), kept


async def _pools(connection: Connection, names: Names, config: Config) -> Mapping[Priority, int]:
    """Return the shard counts of the priorities for which nobody gives one."""
    unasked = [priority for priority in Priority if not config.asks_for_shards(priority)]
    live = await asyncio.gather(*(read_live(connection, names, priority) for priority in unasked))
    return {priority: one.last.shards for priority, one in zip(unasked, live, strict=True) if one.generations}


def _most(values: Iterable[Any]) -> Any:
    found = Counter(values).most_common(1)
    return found[0][0] if found else None


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NANOSECONDS


def _is_valid(name: str, value: Any) -> bool:
    """Return whether the setting may have this value; an invalid value is corrected, not kept."""
    field = Config.model_fields[name]
    try:
        TypeAdapter[Any](cast("Any", Annotated[field.annotation, *field.metadata])).validate_python(value)
    except ValidationError:
        return False
    return True
