"""Change the shard count of a live queue, one generation of shards after the other, and where its new jobs go.

An entity's jobs may lie in another shard once the count has changed, so the new generation's consumers are paused until
every job of the generations before it has ended. Each step reads the present state, and anybody can repeat it: a
process that is killed half-way, or that runs beside another, leaves nothing that the next one cannot finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from jsjobs.jetstream.api.errors import CONSUMER_NOT_FOUND, ApiError
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.streams import stream_info, update_stream
from jsjobs.jetstream.api.types import Declared
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.protocol.names import Generation, Names
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED, GenerationConsumers, is_leftover, later, waits_for
from jsjobs.jetstream.topology.declaration import differences
from jsjobs.jetstream.topology.generations import Live, Shards, Stored, read_live, read_stored, write_live
from jsjobs.jetstream.topology.source_recovery import STOPPED, Sourcing
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.settings import Config

SETTLE = 1.0
"""Seconds between a change of the list and the change of the stream. An update that was decided on the older list must
have arrived by then, or it would send new jobs back to old shards.
See docs/server-quirks.md#streams-have-no-compare-and-set."""
_MEANWHILE = {CONSUMER_NOT_FOUND, 10148, 10149}
"""Error codes for a consumer that is gone, or exists with other settings, since another process was first."""
POLL = 0.25
"""Seconds between two checks of what is left."""


async def update_queue(
    connection: Connection, names: Names, config: Config, priority: Priority, overlay: Declared | None = None
) -> None:
    """Update a queue's stream, with the transform that the present list asks for.

    The transform of a replicated stream is left alone: around an update its replicas would store the same job on
    different subjects (docs/server-quirks.md#replicas-learn-of-a-transform-one-by-one).

    Args:
        connection: The connection to the server.
        names: The namespace.
        config: The settings.
        priority: The priority of the queue.
        overlay: Settings to change beside the transform.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = names.stream(priority)
    live = await read_live(connection, names, priority)
    while True:
        if len(live.generations) > 1:
            await asyncio.sleep(SETTLE)
        info = await stream_info(connection, stream)
        # Read as late as possible: nothing may come between the list and the update that follows from it.
        seen, live = live, await read_live(connection, names, priority)
        if live.revision == seen.revision:
            break
    if not live.generations:
        return
    body = {**info.config.as_told, **(overlay or {})}
    if info.config.num_replicas == 1:
        body["subject_transform"] = declaration.queue_stream(config, names, priority, live.last)["subject_transform"]
    if differences(body, info.config.as_told):
        # Sent now or never: if it were kept until the connection is back, it would follow from an old list.
        await update_stream(connection, body, soon=True)


async def set_copies(connection: Connection, stream: str, copies: int) -> None:
    """Change how many copies a stream has; where it puts new jobs stays as it is.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    info = await stream_info(connection, stream)
    if info.config.num_replicas != copies:
        await update_stream(connection, {**info.config.as_told, "num_replicas": copies})


@dataclass(frozen=True, slots=True)
class Draining:
    """The progress of a change: the jobs that must end before the next generation may run."""

    priority: Priority
    old: Generation
    new: Generation
    left: int
    waits_for: str = ""
    """What keeps the jobs from ending, if anything does."""


class _NeedsLeave(JobError):  # noqa: N818 - reads as what it is
    """A replicated queue may not have a single copy during a change."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.VALIDATION, message)


class Reshard:
    """Bring one priority to one generation with the wanted count, whatever state its last change was left in."""

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
        """Prepare to change a priority's shards, or to finish a change.

        Args:
            connection: The connection to the server.
            names: The namespace.
            config: Settings of the consumers that are created.
            priority: The priority of the shards.
            tell: Called with the progress at each check of what is left.
            one_copy: Whether a replicated queue may have a single copy for the seconds that a change of its transform
                takes; the change cannot be made otherwise.
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
        """What the last run left to somebody who may change streams, and what to do about it; usually empty."""

    async def run(self, wanted: int | None = None, *, wait: bool = True) -> bool:
        """Finish the change that is under way, then make the wanted one, at most once.

        A caller that only finishes, does not wait, and may not change streams does everything else: see `left`.

        Args:
            wanted: The number of shards; None to only finish.
            wait: Whether to wait until the old shards are drained.

        Returns:
            Whether it is done. Without `wait` it is False if jobs of the old shards have not ended yet, or something is
                left to others.

        Raises:
            JobError: If the server refuses, or, without `wait`, cannot be reached; `wait` also waits out an outage.
        """
        self._wanted = wanted
        self._may_leave, self.left = wanted is None and not wait, ""
        while True:
            try:
                done = await settled(self._step_or_leave)  # each try sees what others did meanwhile
            except ApiError as error:
                if error.err_code not in _MEANWHILE and not (wait and error.is_transient):
                    raise
                done = False  # read again, as after a lost race
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
            self.left = f"{error.message}; an operator must do that: `jsjobs streams apply --one-copy`"
            return True

    async def _step(self) -> bool | None:
        """Take one step; return True if nothing is left to do, None if jobs must end before the next step."""
        live, stored = await self._look()
        if live.problem:
            if not self._may_leave:
                raise JobError.from_validation(live.problem)
            self.left = live.problem
        if not live.generations or stored is None:
            return True  # nothing was ever applied, or it is unknown what
        if live.copies is not None and not self._may_leave:
            live = replace(live, copies=min(live.copies, self._config.replicas))  # an operator declares how many
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
        self._wanted = None  # only once: another count that somebody asks for meanwhile follows this one
        return False

    async def _look(self) -> tuple[Live, Stored | None]:
        # The list first: if jobs are stored on a generation that it does not know yet, a write fails by its revision.
        live = await read_live(self._connection, self._names, self._priority)
        return live, await read_stored(self._connection, self._names, self._priority)

    async def _write(self, live: Live, generations: tuple[Generation, ...], pause: datetime | None = None) -> None:
        changed = replace(live, generations=generations, paused_until=later(pause, live.paused_until))
        await write_live(self._connection, self._names, self._priority, changed)

    async def _adopt(self, live: Live, stored: Stored) -> bool:
        """Put generations back into the list that hold jobs though the list does not name them.

        Their jobs were published after those of the listed generations and before the next ones, which get a generation
        of their own.
        """
        unlisted = stored.unlisted(live.generations)
        if not unlisted:
            return False
        listed = (*live.generations, *unlisted)
        await self._write(self._allowed(live, stored), (*listed, Generation.after(listed, live.last.shards)))
        return True

    # -- while more than one generation lives

    async def _advance(self, live: Live, stored: Stored) -> bool:
        """Take one step; return False if jobs of the first generation must end before the next step."""
        first, *waiting = live.generations
        # Generations in between that have nothing to run, and never will: a stranger may have listed many.
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

    async def _remove(self, live: Live, shards: Shards) -> bool:
        """Remove the first generation's consumers, then the generation once no message is on its subjects."""
        first, *waiting = live.generations
        old = {shard: info for shard, info in shards.items() if shard.generation == first}
        found = live.paused_until
        for until in (info.paused_until for info in old.values()):
            if until not in {UNTIL_RESUMED, live.operators_pause}:  # the list knows these
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
        """Make the only generation run and get the new jobs; return False if something had to be done."""
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
        # Each sweep passes here, so a source is restarted whatever made it stop.
        return stored.copies == 1 or stored.unheard < STOPPED or not await self._sourcing.see()

    # -- where new jobs go

    def _allowed(self, live: Live, stored: Stored) -> Live:
        """Return what to write at the start of a change; a replicated queue needs leave to have one copy meanwhile."""
        if stored.copies == 1 or live.copies is not None:
            return live
        if not self._one_copy:
            raise _NeedsLeave(f"{self._stream}: {needs_one_copy(stored.copies)}")
        return replace(live, copies=stored.copies)

    async def _route(self, live: Live, stored: Stored) -> bool:
        """Take one step towards sending new jobs to the last generation; return False if that is left to others."""
        if self.left:
            return False
        allowed = self._allowed(live, stored)
        if allowed != live:
            await self._write(allowed, live.generations)
        elif stored.copies > 1:
            return await self._change(set_copies(self._connection, self._stream, 1))
        elif stored.has_peers:
            await asyncio.sleep(POLL)  # the peers are being removed
        else:
            return await self._change(update_queue(self._connection, self._names, self._config, self._priority))
        return True

    async def _restore_copies(self, live: Live, stored: Stored) -> bool:
        """Give a queue its copies back and make it take due jobs; return whether something had to be done."""
        if live.copies is None or self.left:
            return False
        if stored.copies < live.copies:
            return await self._change(set_copies(self._connection, self._stream, live.copies))
        return await self._sourcing.see()

    async def _change(self, change: Awaitable[None]) -> bool:
        """Change the stream; return False if this user may not and leaves it to others.

        A router is better off without this permission: a user that may update a stream can make the server publish
        anything on any subject of the account, and copy the streams of others.
        """
        try:
            await change
        except NotPermitted as error:
            if not self._may_leave:
                raise
            self.left = (
                f"{self._stream}: this user may not change its shards, so an operator must: run the same "
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
    """Explain why the shard count of a replicated queue is not changed without leave."""
    return (
        f"it has {copies} copies, and its new jobs can be redirected safely only while it has one: --one-copy "
        "allows that for the seconds it takes, after which it gets its copies back"
    )
