"""Create, pause and resume the consumers of shards, by generation: running, waiting and left-over ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from jsjobs.jetstream.api.consumers import consumer_info, create_consumer, delete_consumer, pause_consumer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.generations import Live, Shards, live_shards, read_live, write_live
from jsjobs.model.job import Priority
from jsjobs.settings import Config

FOR_GOOD = datetime(2100, 1, 1, tzinfo=UTC)
"""The end of a waiting generation's pause. It is far away: a pause that expired would let two generations run at
once."""
UNTIL_RESUMED = datetime(2099, 1, 1, tzinfo=UTC)
"""The end of an operator's open-ended pause. It differs from `FOR_GOOD`, since a change of the shard count lifts pauses
of that date by itself."""
MOMENT = 0.5
"""Seconds from now at which a resumed consumer's pause is set to end, since lifting a pause wakes no consumer:
docs/server-quirks.md#a-pause-that-is-lifted-wakes-nobody."""


async def create_shard(
    connection: Connection, names: Names, config: Config, shard: Shard, until: datetime | None
) -> None:
    """Create a shard's consumer, if it does not exist.

    Args:
        connection: The connection to the server.
        names: The namespace.
        config: The consumer's settings.
        shard: The consumer's shard.
        until: When its pause ends; None to run at once.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    body = declaration.shard_consumer(config, names, shard)
    if until is not None:
        body["pause_until"] = until.isoformat()
    stream = names.queue(shard.queue)
    await create_consumer(connection, stream, body)


async def resume(
    connection: Connection, stream: str, consumer: str, *, operators_pause: datetime | None = None
) -> None:
    """End a consumer's pause in a moment, or when the operator's own pause ends.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    ahead = MOMENT
    while True:
        now = (await consumer_info(connection, stream, consumer)).ts
        until = later(now + timedelta(seconds=ahead), operators_pause)
        if until is None or await pause_consumer(connection, stream, consumer, until):
            return
        ahead *= 2  # it was over on arrival, so nothing woke the consumer


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later end of two operators' pauses; `FOR_GOOD` is never an operator's and does not count."""
    return max((time for time in (one, other) if time is not None and time != FOR_GOOD), default=None)


class GenerationConsumers:
    """Create, hold, start and remove a generation's consumers, whatever state they were left in."""

    def __init__(self, connection: Connection, names: Names, config: Config, priority: Priority) -> None:
        self._connection = connection
        self._names = names
        self._config = config
        self._priority = priority
        self._stream = names.stream(priority)

    async def all(self) -> Shards:
        """Return the priority's shards with their consumers' information."""
        return await live_shards(self._connection, self._names, (self._priority,))

    async def hold(self, generation: Generation, shards: Shards) -> datetime | None:
        """Make a waiting generation exist and stay paused; return the operator's own pause found on it, if any."""
        await self._create(generation, shards, FOR_GOOD)
        found = None
        for shard, info in shards.items():
            until = info.paused_until
            if shard.generation == generation and until != FOR_GOOD:
                await pause_consumer(self._connection, self._stream, shard.consumer, FOR_GOOD)
                found = later(found, until)
        return found

    async def start(self, live: Live, shards: Shards) -> bool:
        """Make the first generation have its consumers and run; return whether it had to be started."""
        first = live.generations[0]
        held = [shard for shard, info in shards.items() if shard.generation == first and info.paused_until == FOR_GOOD]
        # A generation that runs already has its own pauses: the noted one is for the generation after it.
        noted = live.paused_until if held or len(live.generations) == 1 else None
        until = later(noted, live.operators_pause)
        created = await self._create(first, shards, until)
        await self._resume(held, until)
        if created or held:
            await self._catch_up(live, [*created, *held])
        if noted is not None:
            # The consumers have it now. If it stayed here, it would pause a later generation long after it was lifted.
            await write_live(self._connection, self._names, self._priority, replace(live, paused_until=None))
        return bool(created or held or noted)

    async def _resume(self, shards: list[Shard], until: datetime | None) -> None:
        names = [shard.consumer for shard in shards]
        await asyncio.gather(*(resume(self._connection, self._stream, one, operators_pause=until) for one in names))

    async def _catch_up(self, live: Live, started: list[Shard]) -> None:
        """Apply to shards just started what an operator decided meanwhile, without finding them running."""
        now = await read_live(self._connection, self._names, self._priority)
        if now.operators_pause != live.operators_pause:
            await self._resume(started, now.operators_pause)

    async def remove(self, shard: Shard) -> None:
        """Delete a shard's consumer, if it is there."""
        await delete_consumer(self._connection, self._stream, shard.consumer)

    async def _create(self, generation: Generation, shards: Shards, until: datetime | None) -> list[Shard]:
        """Create the generation's missing consumers; return their shards."""
        wanted = [Shard(self._priority, generation, number) for number in range(generation.shards)]
        missing = [shard for shard in wanted if shard not in shards]
        for shard in missing:
            await create_shard(self._connection, self._names, self._config, shard, until)
        return missing


def is_leftover(shard: Shard, only: Generation) -> bool:
    """Return whether a shard belongs to a generation that is gone, or that nobody decided on.

    A shard of a younger generation is no leftover: its change began a moment ago.
    """
    return shard.generation != only and shard.generation.number <= only.number


def common_pause(first: Generation, shards: Shards) -> datetime | None:
    """Return the end of an operator's pause as the generation's consumers have it, for when no entry tells it."""
    pauses = {info.paused_until for shard, info in shards.items() if shard.generation == first}
    return later(pauses.pop(), None) if len(pauses) == 1 else None


def waits_for(first: Generation, shards: Shards) -> str:
    """Return why the remaining jobs do not end, as far as the consumers show it; empty if they do not."""
    infos = [info for shard, info in shards.items() if shard.generation == first]
    known = [info for info in infos if info.num_pending or info.num_ack_pending]
    if pauses := [until for until in (info.paused_until for info in known) if until is not None]:
        if UNTIL_RESUMED in pauses:
            return "paused until `jsjobs resume`"
        return f"paused until {max(pauses):%Y-%m-%d %H:%M:%S} UTC"
    if known and not any(info.push_bound for info in known):
        return "no worker listens"
    if infos and not known:
        return "the server gave them up; a router makes them dead letters"
    return ""
