"""The consumers of a priority's generations: those that run, those that wait, those that are left over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import Live, live_shards, read_live, write_live
from jsjobs.jetstream.shard_consumers import (
    FOR_GOOD,
    UNTIL_RESUMED,
    create_consumer,
    later,
    pause,
    paused_until,
    resume,
)
from jsjobs.jetstream.subjects import Generation, Names, Shard
from jsjobs.model.job import Priority
from jsjobs.settings import Config

Infos = dict[Shard, dict[str, Any]]
"""What the server tells of each shard's consumer."""


class GenerationConsumers:
    """Makes, holds, starts and removes them, whatever state they were left in."""

    def __init__(self, connection: Connection, names: Names, config: Config, priority: Priority) -> None:
        self._connection = connection
        self._names = names
        self._config = config
        self._priority = priority
        self._stream = names.stream(priority)

    async def all(self) -> Infos:
        """What the server tells of each."""
        return await live_shards(self._connection, self._names, (self._priority,))

    async def hold(self, generation: Generation, shards: Infos) -> datetime | None:
        """See that a waiting generation is there and paused for good; an operator's own pause of it is returned."""
        await self._create(generation, shards, FOR_GOOD)
        found = None
        for shard, info in shards.items():
            until = paused_until(info)
            if shard.generation == generation and until != FOR_GOOD:
                await pause(self._connection, self._stream, shard.consumer, FOR_GOOD)
                found = later(found, until)
        return found

    async def start(self, live: Live, shards: Infos) -> bool:
        """See that the first generation has its consumers and is no longer held; True if it had to be started."""
        first = live.generations[0]
        held = [shard for shard, info in shards.items() if shard.generation == first and paused_until(info) == FOR_GOOD]
        # One that runs already has its own pauses: what is noted down is for the generation after it.
        noted = live.paused_until if held or len(live.generations) == 1 else None
        until = later(noted, live.operators_pause)
        created = await self._create(first, shards, until)
        await self._resume(held, until)
        if created or held:
            await self._catch_up(live, [*created, *held])
        if noted is not None:
            # The consumers have it now. Kept here it would pause a later generation too, long after it was lifted.
            await write_live(self._connection, self._names, self._priority, replace(live, paused_until=None))
        return bool(created or held or noted)

    async def _resume(self, shards: list[Shard], until: datetime | None) -> None:
        names = [shard.consumer for shard in shards]
        await asyncio.gather(*(resume(self._connection, self._stream, one, operators_pause=until) for one in names))

    async def _catch_up(self, live: Live, started: list[Shard]) -> None:
        """Do to shards just started what an operator decided meanwhile: whoever did so did not find them running."""
        now = await read_live(self._connection, self._names, self._priority)
        if now.operators_pause != live.operators_pause:
            await self._resume(started, now.operators_pause)

    async def remove(self, shard: Shard) -> None:
        """Delete a shard's consumer, if it is there."""
        await find(self._connection, f"CONSUMER.DELETE.{self._stream}.{shard.consumer}")

    async def _create(self, generation: Generation, shards: Infos, until: datetime | None) -> list[Shard]:
        """Make the generation's consumers that are missing; which."""
        wanted = [Shard(self._priority, generation, number) for number in range(generation.shards)]
        missing = [shard for shard in wanted if shard not in shards]
        for shard in missing:
            await create_consumer(self._connection, self._names, self._config, shard, until)
        return missing


def is_leftover(shard: Shard, only: Generation) -> bool:
    """Whether a shard is of a generation that is gone, or that nobody decided.

    A younger one is of a change that began a moment ago, and is none.
    """
    return shard.generation != only and shard.generation.number <= only.number


def common_pause(first: Generation, shards: Infos) -> datetime | None:
    """Until when an operator has paused a generation, as its consumers tell it where nothing else does."""
    pauses = {paused_until(info) for shard, info in shards.items() if shard.generation == first}
    return later(pauses.pop(), None) if len(pauses) == 1 else None


def waits_for(first: Generation, shards: Infos) -> str:
    """Why the jobs that are left do not end, as the consumers tell it."""
    infos = [info for shard, info in shards.items() if shard.generation == first]
    known = [info for info in infos if info["num_pending"] or info["num_ack_pending"]]
    if pauses := [until for until in map(paused_until, known) if until is not None]:
        if UNTIL_RESUMED in pauses:
            return "paused until `jsjobs resume`"
        return f"paused until {max(pauses):%Y-%m-%d %H:%M:%S} UTC"
    if known and not any(info.get("push_bound") for info in known):
        return "no worker takes them"
    if infos and not known:
        return "the server gave them up; a router must bury them"
    return ""
