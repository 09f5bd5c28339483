"""Changing the shard count of a live queue, one generation of shards after the other.

An entity's jobs may lie in another shard once the count has changed, so the new generation's consumers are paused until
every job of the generations before it has ended. Each step looks at what is there and can be repeated, by anybody:
whoever is killed half-way, or runs beside another, leaves nothing that the next one could not finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from jsjobs.jetstream.api import CONSUMER_NOT_FOUND, ApiError
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.generation_consumers import GenerationConsumers, Infos, is_leftover, waits_for
from jsjobs.jetstream.generations import Live, Stored, read_live, read_stored, write_live
from jsjobs.jetstream.queue_update import set_copies, update_queue
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.shard_consumers import UNTIL_RESUMED, later, paused_until
from jsjobs.jetstream.sourcing import STOPPED, Sourcing
from jsjobs.jetstream.state import Conflict
from jsjobs.jetstream.subjects import Generation, Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.settings import Config

_MEANWHILE = {CONSUMER_NOT_FOUND, 10148, 10149}
"""A consumer that is gone, or there with other settings, since another one was first."""
POLL = 0.25
"""Seconds between two looks at what is left."""


@dataclass(frozen=True, slots=True)
class Draining:
    """How far a change is: jobs that must end before the next generation may run."""

    priority: Priority
    old: Generation
    new: Generation
    left: int
    waits_for: str = ""
    """What keeps them from ending, where something does."""


class _NeedsLeave(JobError):  # noqa: N818 - reads as what it is
    """A replicated queue may not have a single copy meanwhile."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.VALIDATION, message)


class Reshard:
    """Brings one priority to one generation with the wanted count, whatever state its last change was left in."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        config: Config,
        priority: Priority,
        tell: Callable[[Draining], None] = lambda _: None,
        *,
        one_copy: bool = False,
    ) -> None:
        """Change or finish with these tools.

        Args:
            connection: To the server.
            names: The namespace.
            config: Settings of the consumers that are made.
            priority: Whose shards.
            tell: Called with each look at what is left.
            one_copy: Whether a replicated queue may have a single copy for the seconds that a change of its transform
                takes; it cannot be made otherwise.
        """
        self._connection = connection
        self._names = names
        self._config = config
        self._priority = priority
        self._stream = names.stream(priority)
        self._tell = tell
        self._consumers = GenerationConsumers(connection, names, config, priority)
        self._one_copy = one_copy
        self._wanted: int | None = None
        self._told: Draining | None = None
        self._sourcing = Sourcing(connection, self._stream)
        self._may_leave = False
        self.left = ""
        """What the last run left to somebody who may change streams, and what to do about it; empty as a rule."""

    async def run(self, wanted: int | None = None, *, wait: bool = True) -> bool:
        """Finish the change that is under way, then make the wanted one, at most once.

        Who only finishes, does not wait, and may not change streams, does all the rest: see `left`.

        Args:
            wanted: Shards; None: only finish.
            wait: Whether to wait until the old shards are drained.

        Returns:
            Whether it is done. False, where it does not wait: jobs of the old shards have not ended yet, or something
                is left to others.

        Raises:
            JobError: If the server refuses; an outage is waited for where `wait` is.
        """
        self._wanted = wanted
        self._may_leave, self.left = wanted is None and not wait, ""
        while True:
            try:
                done = await self._step_or_leave()
            except Conflict:
                continue  # another one did something: look again
            except ApiError as error:
                if error.err_code not in _MEANWHILE and not (wait and error.is_transient):
                    raise
                done = False  # likewise
                await asyncio.sleep(POLL)
            except JobError as error:
                if not (wait and error.is_transient) or isinstance(error, ConnectionClosed):
                    raise
                self._say(replace(self._told, waits_for=error.message) if self._told else None)
                done = None
            if done:
                return not self.left
            if done is None:
                if not wait:
                    return False
                await asyncio.sleep(POLL)

    async def _step_or_leave(self) -> bool | None:
        try:
            return await self._step()
        except _NeedsLeave as error:
            if not self._may_leave:
                raise
            self.left = f"{error.message}; that is left to an operator: `jsjobs streams apply --one-copy`"
            return True

    async def _step(self) -> bool | None:
        """One step; True where nothing is left to do, None where jobs must end before the next one."""
        live, stored = await self._look()
        if live.problem:
            if not self._may_leave:
                raise JobError.from_validation(live.problem)
            self.left = live.problem
        if not live.generations or stored is None:
            return True  # nothing was ever applied, or nobody knows what
        if live.copies is not None and not self._may_leave:
            live = replace(live, copies=min(live.copies, self._config.replicas))  # as declared by who may change it
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
        begun = self._allowed(live, stored)
        await self._write(begun, (live.last, Generation.after(live.generations, self._wanted)))
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
        strays = stored.strays(live.generations)
        if not strays:
            return False
        listed = (*live.generations, *strays)
        await self._write(self._allowed(live, stored), (*listed, Generation.after(listed, live.last.shards)))
        return True

    # -- while more than one generation lives

    async def _advance(self, live: Live, stored: Stored) -> bool:
        """One step; False where jobs of the first generation must end before the next one."""
        first, *waiting = live.generations
        # Those between, in which there is nothing to run and never will be: a stranger may have listed many.
        empty = {one for one in waiting[:-1] if not stored.jobs[one] and one != stored.target}
        if empty:
            await self._write(live, tuple(one for one in live.generations if one not in empty))
            return True
        shards = await self._consumers.all()
        found = None
        for generation in waiting:
            found = later(found, await self._consumers.hold(generation, shards))
        if later(found, live.paused_until) != live.paused_until:
            await self._write(live, live.generations, found)
            return True
        is_routed = stored.target == live.last
        if await (self._restore_copies(live, stored) if is_routed else self._route(live, stored)):
            return True
        left = stored.jobs[first]
        if is_routed and not left:
            return await self._remove(live, shards)
        if await self._consumers.start(live, shards):
            return True
        self._say(Draining(self._priority, first, live.last, left, waits_for(first, shards)))
        return False

    async def _remove(self, live: Live, shards: Infos) -> bool:
        """Take the first generation's consumers away, then the generation, once nothing stands on its subjects."""
        first, *waiting = live.generations
        old = {shard: info for shard, info in shards.items() if shard.generation == first}
        found = live.paused_until
        for until in map(paused_until, old.values()):
            if until not in {UNTIL_RESUMED, live.operators_pause}:  # these the list knows
                found = later(found, until)
        if found != live.paused_until:
            await self._write(live, live.generations, found)
            return True
        for shard in old:
            await self._consumers.remove(shard)
        stored = await read_stored(self._connection, self._names, self._priority)
        if stored is not None and not stored.jobs[first]:
            is_last = len(waiting) == 1 and (live.copies is None or stored.copies >= live.copies)
            await self._write(replace(live, copies=None) if is_last else live, tuple(waiting))
            self._say(Draining(self._priority, first, live.last, 0))
        return True

    # -- the first generation

    async def _open(self, live: Live, stored: Stored) -> bool:
        """See that the only generation runs and gets the new jobs; False if something had to be done."""
        (only,) = live.generations
        shards = await self._consumers.all()
        for shard in [shard for shard in shards if is_leftover(shard, only)]:
            await self._consumers.remove(shard)
        if await self._consumers.start(live, shards):
            return False
        is_routed = stored.target == only
        if await (self._restore_copies(live, stored) if is_routed else self._route(live, stored)):
            return False
        if live.copies is not None and not self.left:
            await self._write(replace(live, copies=None), live.generations)
            return False
        # Whatever made it stop: each sweep comes by here.
        return stored.copies == 1 or stored.unheard < STOPPED or not await self._sourcing.see()

    # -- where new jobs go

    def _allowed(self, live: Live, stored: Stored) -> Live:
        """What is to be written at the begin of a change; a replicated queue needs leave to have one copy meanwhile."""
        if stored.copies == 1 or live.copies is not None:
            return live
        if not self._one_copy:
            raise _NeedsLeave(f"{self._stream}: {needs_one_copy(stored.copies)}")
        return replace(live, copies=stored.copies)

    async def _route(self, live: Live, stored: Stored) -> bool:
        """One step towards new jobs going to the last generation; False where that is left to others."""
        if self.left:
            return False
        allowed = self._allowed(live, stored)
        if allowed != live:
            await self._write(allowed, live.generations)
        elif stored.copies > 1:
            return await self._change(set_copies(self._connection, self._stream, 1))
        elif stored.has_peers:
            await asyncio.sleep(POLL)  # they are being let go
        else:
            return await self._change(update_queue(self._connection, self._names, self._config, self._priority))
        return True

    async def _restore_copies(self, live: Live, stored: Stored) -> bool:
        """Give a queue its copies back, and see that it takes what is due; whether something had to be done."""
        if live.copies is None or self.left:
            return False
        if stored.copies < live.copies:
            return await self._change(set_copies(self._connection, self._stream, live.copies))
        return await self._sourcing.see()

    async def _change(self, change: Awaitable[None]) -> bool:
        """Change the stream; False where this user may not, and leaves it.

        It is a right that a router is better without: who may update a stream can have the server publish anything on
        any subject of the account, and copy the streams of others.
        """
        try:
            await change
        except NotPermitted as error:
            if not self._may_leave:
                raise
            self.left = (
                f"{self._stream}: a change of its shards is left to an operator, who may change streams: run the same "
                f"`jsjobs streams apply` again ({error.message})"
            )
            return False
        return True

    # -- helpers

    def _say(self, draining: Draining | None) -> None:
        self._told = draining
        if draining is not None:
            self._tell(draining)


def needs_one_copy(copies: int) -> str:
    """Why the shard count of a replicated queue is not changed without leave."""
    return (
        f"it has {copies} copies, and where it puts new jobs can be changed safely only while it has one: --one-copy "
        "allows that for the seconds it takes, after which it gets its copies back"
    )
