"""Changing the shard count of a live queue, one generation of shards after the other.

An entity's jobs may lie in another shard once the count has changed, so the new generation's consumers are paused until
every job of the generations before it has ended. Each step looks at what is there and can be repeated, by anybody:
whoever is killed half-way, or runs beside another, leaves nothing that the next one could not finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.generations import Live, Stored, live_shards, read_live, read_stored, write_live
from jsjobs.jetstream.queue_update import update_queue
from jsjobs.jetstream.shard_consumers import FOR_GOOD, create_consumer, later, pause, paused_until, resume
from jsjobs.jetstream.state import Conflict
from jsjobs.jetstream.subjects import Generation, Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.settings import Config

POLL = 0.25
"""Seconds between two looks at what is left."""

Infos = dict[Shard, dict[str, Any]]
"""What the server tells of each shard's consumer."""


@dataclass(frozen=True, slots=True)
class Draining:
    """How far a change is: jobs that must end before the next generation may run."""

    priority: Priority
    old: Generation
    new: Generation
    left: int
    waits_for: str = ""
    """What keeps them from ending, where something does."""


class Reshard:
    """Brings one priority to one generation with the wanted count, whatever state its last change was left in."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        config: Config,
        priority: Priority,
        tell: Callable[[Draining], None] = lambda _: None,
    ) -> None:
        """Change or finish with these tools.

        Args:
            connection: To the server.
            names: The namespace.
            config: Settings of the consumers that are made.
            priority: Whose shards.
            tell: Called with each look at what is left.
        """
        self._connection = connection
        self._names = names
        self._config = config
        self._priority = priority
        self._stream = names.stream(priority)
        self._tell = tell
        self._wanted: int | None = None
        self._told: Draining | None = None

    async def run(self, wanted: int | None = None, *, wait: bool = True) -> bool:
        """Finish the change that is under way, then make the wanted one, at most once.

        Args:
            wanted: Shards; None: only finish.
            wait: Whether to wait until the old shards are drained.

        Returns:
            Whether it is done. False, where it does not wait: jobs of the old shards have not ended yet.

        Raises:
            JobError: If the server refuses; an outage is waited for where `wait` is.
        """
        self._wanted = wanted
        while True:
            try:
                done = await self._step()
            except Conflict:
                continue  # another one did something: look again
            except JobError as error:
                if not (wait and error.is_transient) or isinstance(error, ConnectionClosed):
                    raise
                self._say(replace(self._told, waits_for=error.message) if self._told else None)
                done = None
            if done:
                return True
            if done is None:
                if not wait:
                    return False
                await asyncio.sleep(POLL)

    async def _step(self) -> bool | None:
        """One step; True where nothing is left to do, None where jobs must end before the next one."""
        live, stored = await self._look()
        if not live.generations or stored is None:
            return True  # nothing was ever applied
        if self._wanted == live.last.shards:
            self._wanted = None
        if await self._adopt(live, stored):
            return False
        if len(live.generations) > 1:
            return False if await self._advance(live, stored) else None
        if not await self._open(live, stored):
            return False
        if self._wanted is None:
            return True
        await self._write(live, (live.last, Generation(live.last.number + 1, self._wanted)))
        self._wanted = None  # once: who asks for another count at the same time gets it too, after this one
        return False

    async def _look(self) -> tuple[Live, Stored | None]:
        # The list first: what is stored on a generation that it does not know yet is found out by its revision.
        live = await read_live(self._connection, self._names, self._priority)
        return live, await read_stored(self._connection, self._names, self._priority)

    async def _write(self, live: Live, generations: tuple[Generation, ...], pause: datetime | None = None) -> None:
        changed = replace(live, generations=generations, paused_until=later(pause, live.paused_until))
        await write_live(self._connection, self._names, self._priority, changed)

    async def _adopt(self, live: Live, stored: Stored) -> bool:
        """Put generations back into the list that hold jobs though it does not name them.

        They were published after those that the list names, and before what comes next: a generation of its own.
        """
        strays = sorted(generation for generation in stored.jobs if generation and generation not in live.generations)
        if not strays:
            return False
        number = max(generation.number for generation in (*live.generations, *strays)) + 1
        await self._write(live, (*live.generations, *strays, Generation(number, live.last.shards)))
        return True

    # -- while more than one generation lives

    async def _advance(self, live: Live, stored: Stored) -> bool:
        """One step; False where jobs of the first generation must end before the next one."""
        first, *waiting = live.generations
        shards = await self._shards()
        found = None
        for generation in waiting:
            found = later(found, await self._hold(generation, shards))
        if later(found, live.paused_until) != live.paused_until:
            await self._write(live, live.generations, found)
            return True
        if stored.target != live.last:
            await update_queue(self._connection, self._names, self._config, self._priority)
            return True
        left = stored.jobs[first]
        if not left:
            return await self._remove(live, shards)
        if await self._start(live, shards):
            return True
        self._say(Draining(self._priority, first, live.last, left, _waits_for(first, left, shards)))
        return False

    async def _hold(self, generation: Generation, shards: Infos) -> datetime | None:
        """See that a waiting generation is there and paused for good; an operator's own pause of it is returned."""
        await self._create(generation, shards, FOR_GOOD)
        found = None
        for shard, info in shards.items():
            until = paused_until(info)
            if shard.generation == generation and until != FOR_GOOD:
                await pause(self._connection, self._stream, shard, FOR_GOOD)
                found = later(found, until)
        return found

    async def _remove(self, live: Live, shards: Infos) -> bool:
        """Take the first generation's consumers away, then the generation, once nothing stands on its subjects."""
        first, *waiting = live.generations
        old = {shard: info for shard, info in shards.items() if shard.generation == first}
        found = live.paused_until
        for info in old.values():
            found = later(found, paused_until(info))
        if found != live.paused_until:
            await self._write(live, live.generations, found)
            return True
        for shard in old:
            await find(self._connection, f"CONSUMER.DELETE.{self._stream}.{shard.consumer}")
        stored = await read_stored(self._connection, self._names, self._priority)
        if stored is not None and not stored.jobs[first]:
            await self._write(live, tuple(waiting))
            self._say(Draining(self._priority, first, live.last, 0))
        return True

    # -- the first generation

    async def _open(self, live: Live, stored: Stored) -> bool:
        """See that the only generation runs and gets the new jobs; False if something had to be done."""
        (only,) = live.generations
        shards = await self._shards()
        # Only older ones: a younger one is of a change that began a moment ago, and is no leftover.
        for shard in [shard for shard in shards if shard.generation < only]:
            await find(self._connection, f"CONSUMER.DELETE.{self._stream}.{shard.consumer}")
        if await self._start(live, shards):
            return False
        if stored.target != only:
            await update_queue(self._connection, self._names, self._config, self._priority)
            return False
        return True

    async def _start(self, live: Live, shards: Infos) -> bool:
        """See that the first generation has its consumers and is no longer held; True if it had to be started."""
        first = live.generations[0]
        held = [shard for shard, info in shards.items() if shard.generation == first and paused_until(info) == FOR_GOOD]
        # One that runs already has its own pauses: what is noted down is for the generation after it.
        noted = live.paused_until if held or len(live.generations) == 1 else None
        created = await self._create(first, shards, noted)
        await asyncio.gather(*(resume(self._connection, self._stream, shard, operators_pause=noted) for shard in held))
        if noted is not None:
            # The consumers have it now. Kept here it would pause a later generation too, long after it was lifted.
            await write_live(self._connection, self._names, self._priority, replace(live, paused_until=None))
        return bool(created or held or noted)

    # -- helpers

    async def _shards(self) -> Infos:
        return await live_shards(self._connection, self._names, (self._priority,))

    async def _create(self, generation: Generation, shards: Infos, until: datetime | None) -> int:
        """Make the generation's consumers that are missing; how many."""
        wanted = [Shard(self._priority, generation, number) for number in range(generation.shards)]
        missing = [shard for shard in wanted if shard not in shards]
        for shard in missing:
            await create_consumer(self._connection, self._names, self._config, shard, until)
        return len(missing)

    def _say(self, draining: Draining | None) -> None:
        self._told = draining
        if draining is not None:
            self._tell(draining)


def _waits_for(first: Generation, left: int, shards: Infos) -> str:
    """Why the jobs that are left do not end, as the consumers tell it."""
    infos = [info for shard, info in shards.items() if shard.generation == first]
    known = [info for info in infos if info["num_pending"] or info["num_ack_pending"]]
    if pauses := [until for until in map(paused_until, known) if until is not None]:
        return f"paused until {max(pauses):%Y-%m-%d %H:%M:%S} UTC"
    if known and not any(info.get("push_bound") for info in known):
        return "no worker takes them"
    if infos and not known and left:
        return "the server gave them up; a router must bury them"
    return ""
