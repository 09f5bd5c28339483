"""Settings that nobody gives, and that the server has otherwise than by default: somebody asked for them there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import TypeAdapter, ValidationError

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import NANOSECONDS
from jsjobs.jetstream.generations import live_shards, read_live
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import Priority
from jsjobs.settings import DEFAULT_POOLS, Config


@dataclass(frozen=True, slots=True)
class Unasked:
    """One of them, which is kept as it is."""

    setting: str
    """The name in `Config`."""
    there: Any
    """What the server has."""
    default: Any
    priority: Priority | None = None
    """Whose shards; None for what all priorities share."""

    @property
    def where(self) -> str:
        """What has it."""
        return self.setting if self.priority is None else f"shards {self.priority}"

    @property
    def variable(self) -> str:
        """The variable that asks for it."""
        return f"JSJOBS_{self.setting.upper()}"

    def __str__(self) -> str:
        """Both numbers, and who would change what: nobody."""
        there, default = (
            f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in (self.there, self.default)
        )
        return f"{self.where}: the server has {there}, which is kept; no setting here asks for the default of {default}"


async def keep_unasked(connection: Connection, names: Names, config: Config) -> tuple[Config, list[Unasked]]:
    """The settings, with what the server has where nobody gives a value, and what of that is no default.

    What most of the queues have counts: one that was changed by itself differs from them, and from what is declared.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached; `Validation`, if the generations of a priority
            cannot be read.
    """
    streams = [*(names.stream(priority) for priority in Priority), names.state_stream]
    infos = await asyncio.gather(*(find(connection, f"STREAM.INFO.{stream}") for stream in streams))
    queues = [info["config"] for info in infos[:-1] if info is not None]
    shards = [info["config"] for info in (await live_shards(connection, names)).values()] if queues else []
    copies = [info["config"]["num_replicas"] for info in infos if info is not None]
    found = {
        "replicas": max(copies, default=None),  # a queue whose shards are being changed has fewer for a moment
        "queue_bytes": _most(queue.get("max_bytes") for queue in queues),
        "capacity": _most(queue.get("max_msgs_per_subject") for queue in queues),
        "duplicate_window": _seconds(_most(queue.get("duplicate_window") for queue in queues)),
        "ack_wait": _seconds(_most(shard.get("ack_wait") for shard in shards)),
        "max_deliver": _most(shard.get("max_deliver") for shard in shards),
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
    """The shards of the priorities for which nobody asks for a number."""
    unasked = [priority for priority in Priority if not config.asks_for_shards(priority)]
    live = await asyncio.gather(*(read_live(connection, names, priority) for priority in unasked))
    return {priority: one.last.shards for priority, one in zip(unasked, live, strict=True) if one.generations}


def _most(values: Iterable[Any]) -> Any:
    found = Counter(values).most_common(1)
    return found[0][0] if found else None


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NANOSECONDS


def _is_valid(name: str, value: Any) -> bool:
    """Whether the setting may have this value: what it may not have is put right."""
    field = Config.model_fields[name]
    try:
        TypeAdapter[Any](cast("Any", Annotated[field.annotation, *field.metadata])).validate_python(value)
    except ValidationError:
        return False
    return True
