"""Follow the shards that exist: subscribe to new ones, and notice consumers that are missing or no longer deliver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from jsjobs.jetstream.api.errors import IncompleteList
from jsjobs.jetstream.api.types import ConsumerConfig, ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import no_streams
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.declaration import is_plausible, shard_faults
from jsjobs.jetstream.topology.generations import LastLive, Shards, live_shards
from jsjobs.jetstream.topology.stalled_consumers import Stalls, wake
from jsjobs.model.errors import JobError
from jsjobs.poller import Poller
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.worker")

INTERVAL = 3.0
"""Seconds between two checks."""
_PATIENCE = 3
"""Checks in a row that a cluster may answer only in part, as it does while leaders change."""
FAST = 0.5
"""Seconds between two checks while something is missing."""
_APART = 0.1
"""Seconds between two checks, at least: somebody may write the lists all the time."""


class ShardSubscriptions(Protocol):
    """The subscriptions to shards."""

    @property
    def taken(self) -> set[Shard]:
        """Return the shards that this worker works."""
        ...

    async def take(self, shard: Shard) -> None:
        """Start working a shard."""
        ...

    async def drop(self, shard: Shard) -> None:
        """Stop working a shard."""
        ...


class ShardMonitor:
    """Check the shards now and then: subscribe to new ones, leave removed ones, wake stalled ones, report readiness."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        config: Config,
        subscriptions: ShardSubscriptions,
        *,
        ack_wait_is: Callable[[float], None],
        max_deliver_is: Callable[[int], None],
    ) -> None:
        self._config = config
        self._connection = connection
        self._names = names
        self._live = LastLive(connection, names, logger)
        self._subscriptions = subscriptions
        self._ack_wait_is = ack_wait_is
        self._max_deliver_is = max_deliver_is
        self._poller = Poller(self._look_again, lambda: INTERVAL if self._is_calm else FAST)
        # A router checks sooner, and may do more: if one runs, a worker finds nothing to wake.
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
        """Return whether every declared shard has a consumer that delivers to this worker."""
        return not self.why_not_ready

    async def start(self, shards: Shards | None, on_change: Callable[[], None]) -> None:
        """Subscribe to the given shards, or check for them if there are none, then go on checking.

        Args:
            shards: The shards, as far as they are known.
            on_change: Called when somebody announces a change of shards or partitions.
        """
        await self._try(shards)
        # A change of the shards is written here first. It is a hint to check, and may be missed.
        lists = f"$KV.{self._names.bucket}.{self._names.topology_key('*')}".encode()
        self._changes = await self._connection.receive(lists, lambda *_: on_change())
        self._poller.start()

    def look_soon(self) -> None:
        """Check as soon as possible: much may have changed, as after an outage."""
        self._poller.soon()

    async def stop(self) -> None:
        """Stop checking."""
        if self._changes is not None:
            await self._connection.stop_receiving(self._changes, drain=False)
        await self._poller.stop()

    async def _look_again(self) -> None:
        await self._try()
        await asyncio.sleep(_APART)

    async def _try(self, shards: Shards | None = None) -> None:
        try:
            await self._look(await self._found() if shards is None else shards)
        except IncompleteList as error:
            # Nothing is known to be missing: subscriptions stay as they are until the whole list is known.
            self._untold += 1
            if self._untold > _PATIENCE:
                self._say(error.message)
        except JobError as error:
            self._say(f"the server cannot be asked: {error.message}")
        except Exception:
            logger.exception("the check of the shards failed; it is repeated")
            self._say("the check of the shards failed")

    async def _found(self) -> Shards:
        return await live_shards(self._connection, self._names, self._config.priorities)

    async def _look(self, shards: Shards) -> None:
        subscriptions = self._subscriptions
        self._untold = 0
        self._take_limits([info.config for info in shards.values()])
        for shard in subscriptions.taken - set(shards):
            await subscriptions.drop(shard)
        for shard in sorted(set(shards) - subscriptions.taken, key=lambda shard: shard.consumer):
            await subscriptions.take(shard)
        for shard, info in shards.items():
            await self._listen_again(shard, info)
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
            self._say(f"consumers differ from their declaration: {', '.join(faults)}; run `jsjobs streams apply`")
        elif not (missing or faulty):
            self._say("")

    def _take_limits(self, configs: list[ConsumerConfig]) -> None:
        """Use the server's `ack_wait`, except for an implausible one, and its `max_deliver`."""
        waits = [wait for one in configs if is_plausible("ack_wait", wait := one.ack_wait)]
        if waits:
            self._ack_wait_is(min(waits) / 1e9)
        self._max_deliver_is(min((most for one in configs if (most := one.max_deliver) > 0), default=0))

    def _faults(self, shard: Shard, info: ConsumerInfo) -> list[str]:
        return shard_faults(self._config, self._names, shard, info.config.as_told)

    async def _declared(self) -> tuple[list[Shard], list[Shard]]:
        """Return the shards that should run, and those that wait until the first ones are drained."""
        first: list[Shard] = []
        waiting: list[Shard] = []
        for priority in self._config.priorities:
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

    async def _listen_again(self, shard: Shard, info: ConsumerInfo) -> None:
        """Subscribe anew to a shard in which jobs wait and the server has lost our subscription."""
        unheard = info.num_pending > 0 and not info.push_bound
        if unheard and shard in self._deaf:
            logger.warning("shard %s: jobs wait and the server knows of no worker; subscribing again", shard.consumer)
            await self._subscriptions.drop(shard)
            await self._subscriptions.take(shard)
            self._deaf.discard(shard)
        elif unheard:
            self._deaf.add(shard)
        else:
            self._deaf.discard(shard)

    async def _wake(self, shards: Shards) -> None:
        """Wake the shards that stall, if this user may: a worker's own permissions leave it to routers."""
        for place in self._stalls.stalled(shards.values()):
            if self._may_wake:
                try:
                    await wake(self._connection, self._names, place, logger)
                except NotPermitted:
                    self._may_wake = False
                    logger.info("a router will wake %s: this NATS user may not", place[1])
                except JobError as error:
                    logger.debug("%s is checked again: %s", place[1], error.message)

    def _say(self, why_not_ready: str) -> None:
        if why_not_ready != self.why_not_ready:
            if why_not_ready:
                logger.warning("not ready: %s", why_not_ready)
            else:
                logger.info("ready: jobs of every shard reach this worker")
        self.why_not_ready = why_not_ready


def compare(shards: Iterable[Shard], config: Config) -> None:
    """Log where the settings ask for other shard counts than the server has; the server's counts apply."""
    # Of two generations the younger one counts: the other is on its way out.
    last = {shard.priority: shard.generation for shard in sorted(shards, key=lambda shard: shard.generation)}
    for priority, generation in last.items():
        asked = config.shards(priority)
        if generation.shards != asked and config.asks_for_shards(priority):
            logger.warning(
                "%s has %d shards on the server, and this worker serves them all; its settings say %d, and "
                "`jsjobs streams apply` with them would change that",
                priority,
                generation.shards,
                asked,
            )
