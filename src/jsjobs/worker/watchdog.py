"""Follows the shards that exist, and notices a consumer that is missing or no longer delivers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from jsjobs.jetstream.api import IncompleteList
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import is_plausible, shard_faults
from jsjobs.jetstream.errors import no_streams
from jsjobs.jetstream.generations import LastLive, live_shards
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.stalled import Stalls, wake
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config
from jsjobs.worker.busy import tell_busy

logger = get_logger("jsjobs.worker")

INTERVAL = 3.0
"""Seconds between two looks."""
_PATIENCE = 3
"""Looks in a row to which a cluster may answer in part, as it does while leaders change."""
FAST = 0.5
"""Seconds between two looks while something is missing."""
_APART = 0.1
"""Seconds between two looks at least: whoever may write the lists may write them all the time."""


class Taker(Protocol):
    """Who subscribes to shards."""

    @property
    def taken(self) -> set[Shard]:
        """The shards that are worked."""
        ...

    def listens_to(self, shard: Shard) -> bool:
        """Whether it is subscribed; a worker at its bound may not be, on purpose."""
        ...

    async def take(self, shard: Shard) -> None:
        """Work a shard."""
        ...

    async def drop(self, shard: Shard) -> None:
        """Work it no more."""
        ...


class Watchdog:
    """Looks seldom: subscribes to new shards, leaves removed ones, wakes stalled ones, and says why it is not ready."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        config: Config,
        taker: Taker,
        limits_are: Callable[[float, int], None],
    ) -> None:
        self._config = config
        self._connection = connection
        self._names = names
        self._live = LastLive(connection, names, logger)
        self._taker = taker
        self._limits_are = limits_are
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._soon = asyncio.Event()
        # A router looks sooner, and may do more: where one runs, a worker finds nothing to wake.
        self._stalls = Stalls(looks=2)
        self._deaf: set[Shard] = set()
        self._may_wake = True
        self._missing: set[Shard] = set()
        self._faulty: set[Shard] = set()
        self._changes: int | None = None
        self._untold = 0
        self.why_not_ready = "the worker has not started"

    @property
    def ready(self) -> bool:
        """Whether every declared shard has a consumer that delivers to us."""
        return not self.why_not_ready

    async def start(self, shards: dict[Shard, dict[str, Any]] | None) -> None:
        """Subscribe to the shards just seen, or else look, then go on looking."""
        await self._try(shards)
        # Whoever changes the shards writes here first: a hint to look, which may be missed.
        lists = f"$KV.{self._names.bucket}.{self._names.topology_key('*')}".encode()
        self._changes = await self._connection.receive(lists, lambda *_: self.look_soon())
        self._task = asyncio.ensure_future(self._watch())

    def look_soon(self) -> None:
        """Look at once: after an outage much may have changed."""
        self._soon.set()

    async def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._changes is not None:
            await self._connection.stop_receiving(self._changes, drain=False)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while not self._stopped:  # a cancellation alone can be lost: Python 3.11's `wait_for` swallows some
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL if self._is_calm else FAST):
                    await self._soon.wait()
            self._soon.clear()
            await self._try()
            await asyncio.sleep(_APART)

    async def _try(self, shards: dict[Shard, dict[str, Any]] | None = None) -> None:
        try:
            await self._look(await live_shards(self._connection, self._names) if shards is None else shards)
        except IncompleteList as error:
            # Nothing is known to be missing: what was taken stays taken, until the whole list is told.
            self._untold += 1
            if self._untold > _PATIENCE:
                self._say(error.message)
        except JobError as error:
            self._say(f"the server cannot be asked: {error.message}")
        except Exception:
            logger.exception("the watchdog failed; it looks again")
            self._say("the watchdog failed")

    async def _look(self, shards: dict[Shard, dict[str, Any]]) -> None:
        taker = self._taker
        self._untold = 0
        self._take_limits([info["config"] for info in shards.values()])
        for shard in taker.taken - set(shards):
            await taker.drop(shard)
        for shard in sorted(set(shards) - taker.taken, key=lambda shard: shard.consumer):
            await taker.take(shard)
        for shard, info in shards.items():
            await self._listen_again(shard, info)
        if not all(map(taker.listens_to, shards)):
            tell_busy(self._connection, self._names)
        await self._wake(shards)
        first, waiting = await self._declared()
        # Shards that are about to run are not missed yet, and those that are being removed are missed only once.
        missing = {shard for shard in first if shard not in shards}
        faulty = {shard for shard, info in shards.items() if self._faults(shard, info)}
        missed, wrong = missing & self._missing, faulty & self._faulty
        self._missing, self._faulty = missing | {shard for shard in waiting if shard not in shards}, faulty
        if not shards:
            self._say(no_streams(self._names.namespace))
        elif missed:
            named = ", ".join(sorted(shard.consumer for shard in missed))
            self._say(f"consumers are missing: {named}; run `jsjobs streams apply`")
        elif wrong:
            faults = sorted(f"{one.consumer} ({', '.join(self._faults(one, shards[one]))})" for one in wrong)
            self._say(f"consumers are not as declared: {', '.join(faults)}; run `jsjobs streams apply`")
        elif not (missing or faulty):
            self._say("")

    def _take_limits(self, configs: list[dict[str, Any]]) -> None:
        """What counts is what the server has; but not what nobody can have meant."""
        waits = [wait for one in configs if is_plausible("ack_wait", wait := one.get("ack_wait", 0))]
        counted = [most for one in configs if (most := one.get("max_deliver", -1)) > 0]
        if waits:
            self._limits_are(min(waits) / 1e9, min(counted, default=sys.maxsize))

    def _faults(self, shard: Shard, info: dict[str, Any]) -> list[str]:
        return shard_faults(self._config, self._names, shard, info["config"])

    async def _declared(self) -> tuple[list[Shard], list[Shard]]:
        """The shards that should run, and those that wait until these are drained."""
        first: list[Shard] = []
        waiting: list[Shard] = []
        for priority in Priority:
            live = await self._live.read(priority)
            for place, generation in enumerate(live.generations):
                shards = waiting if place else first
                shards += [Shard(priority, generation, number) for number in range(generation.shards)]
        return first, waiting

    @property
    def _is_calm(self) -> bool:
        return self.ready and not (
            self._missing or self._faulty or self._untold or (self._stalls.suspected and self._may_wake)
        )

    async def _listen_again(self, shard: Shard, info: dict[str, Any]) -> None:
        """Subscribe anew where jobs wait and the server has lost sight of our interest."""
        unheard = bool(info["num_pending"]) and not info.get("push_bound") and self._taker.listens_to(shard)
        if unheard and shard in self._deaf:
            logger.warning("shard %s: jobs wait and the server knows of no worker; subscribing again", shard.consumer)
            await self._taker.drop(shard)
            await self._taker.take(shard)
            self._deaf.discard(shard)
        elif unheard:
            self._deaf.add(shard)
        else:
            self._deaf.discard(shard)

    async def _wake(self, shards: dict[Shard, dict[str, Any]]) -> None:
        """Wake the shards that stall, where this user may: with the rights of a worker alone only routers can."""
        for place in self._stalls.stalled(info for shard, info in shards.items() if self._taker.listens_to(shard)):
            if self._may_wake:
                try:
                    await wake(self._connection, self._names, place, logger)
                except NotPermitted:
                    self._may_wake = False
                    logger.info("a router will wake %s: this user of NATS may not", place[1])
                except JobError as error:
                    logger.debug("%s is looked at again: %s", place[1], error.message)

    def _say(self, why_not_ready: str) -> None:
        if why_not_ready != self.why_not_ready:
            if why_not_ready:
                logger.warning("not ready: %s", why_not_ready)
            else:
                logger.info("ready: jobs of every shard reach this worker")
        self.why_not_ready = why_not_ready


def compare(shards: Iterable[Shard], config: Config) -> None:
    """Say where the settings ask for other shards than there are: how much runs at once is the server's to say."""
    # Of two generations the younger one: the other is on its way out.
    last = {shard.priority: shard.generation for shard in sorted(shards, key=lambda shard: shard.generation)}
    for priority, generation in last.items():
        asked = config.shards(priority)
        if generation.shards != asked and config.asks_for_shards(priority):
            logger.warning(
                "%s has %d shards on the server, all of which are worked; these settings say %d, and `jsjobs "
                "streams apply` with them would change that",
                priority,
                generation.shards,
                asked,
            )
