"""Keep the consumers of shards, partitions and letters working: wake those that stall, and restore missing ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology.declaration import partition_faults, router_faults, shard_faults
from jsjobs.jetstream.topology.generations import LastLive, live_shards
from jsjobs.jetstream.topology.partitions import live_partitions, partition_count
from jsjobs.jetstream.topology.stalled_consumers import LOOK_AGAIN, LOOK_EVERY, Stalls, wake
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.router")

_IN_VAIN = 30.0
"""Seconds until the next attempt to restore missing consumers after one that restored none, as while the shard count is
being changed."""


class ConsumerGuard:
    """Check every two seconds for consumers that stall or are missing; any number of guards may run."""

    def __init__(
        self, connection: Connection, names: Names, config: Config, restore: Callable[[], Awaitable[list[str]]]
    ) -> None:
        """Start with no earlier checks.

        Args:
            connection: The connection to the server.
            names: The namespace.
            config: The settings that consumers are declared with.
            restore: Recreates missing consumers, repairs those that cannot deliver as they should, and returns their
                names.
        """
        self._config = config
        self._connection = connection
        self._names = names
        self._live = LastLive(connection, names, logger)
        self._restore = restore
        self._stalls = Stalls()
        self._missing: set[str] = set()
        self._restore_at = 0.0
        self._told: set[str] = set()

    async def watch(self) -> None:
        """Check again and again, until this is cancelled."""
        while True:
            try:
                await self._look()
            except Exception:
                logger.exception("the check of the consumers failed; it is repeated")
            soon = self._stalls.suspected or (self._missing and time.monotonic() >= self._restore_at)
            await asyncio.sleep(LOOK_AGAIN if soon else LOOK_EVERY)

    async def _look(self) -> None:
        """Check everything, even if some of it cannot be read or repaired."""
        infos, missing = list[ConsumerInfo](), set[str]()
        for priority in Priority:
            with self._whatever_fails():
                shards = await live_shards(self._connection, self._names, (priority,))
                infos += shards.values()
                missing |= {one.consumer for one in shards if self._is_at_fault(one, shards[one])}
                missing |= {one.consumer for one in await self._first(priority) - set(shards)}
            with self._whatever_fails():
                missing |= await self._missing_partitions(priority)
        with self._whatever_fails():
            letters = await find_consumer(self._connection, self._names.dead_stream, self._names.router)
            if letters is None or router_faults(self._names, letters.config.as_told):
                missing.add(self._names.router)
            infos += [] if letters is None else [letters]
        for place in self._stalls.stalled(infos):
            with self._whatever_fails():
                await wake(self._connection, self._names, place, logger)
        with self._whatever_fails():
            await self._make_again(missing)

    def _is_at_fault(self, shard: Shard, info: ConsumerInfo) -> bool:
        return bool(shard_faults(self._config, self._names, shard, info.config.as_told))

    async def _missing_partitions(self, priority: Priority) -> set[str]:
        """Return the consumers of a parallel lane that are missing or faulty: jobs are sent to their partitions."""
        lane = await find_stream(self._connection, self._names.queue(Queue(priority, Lane.PARALLEL)))
        if lane is None:
            return set()
        found = await live_partitions(self._connection, self._names, (priority,))
        count = partition_count(self._names, priority, lane) or 0
        missing = {Partition(priority, number) for number in range(count)} - set(found)
        faults = {
            one for one, info in found.items() if partition_faults(self._config, self._names, one, info.config.as_told)
        }
        return {one.consumer for one in missing | faults}

    async def _first(self, priority: Priority) -> set[Shard]:
        """Return the shards of the first generation; those of waiting generations may not exist yet."""
        generations = (await self._live.read(priority)).generations
        return {Shard(priority, first, number) for first in generations[:1] for number in range(first.shards)}

    async def _make_again(self, missing: set[str]) -> None:
        """Restore consumers that two checks in a row found missing.

        Those that a change of the shard count removes are missing at one check only.
        """
        lost, self._missing = missing & self._missing, missing
        if lost and time.monotonic() >= self._restore_at:
            self._restore_at = time.monotonic() + _IN_VAIN
            if made := await self._restore():
                self._restore_at, self._missing = 0.0, set()
                logger.warning("consumers were missing or wrong and were restored: %s", ", ".join(sorted(made)))

    @contextmanager
    def _whatever_fails(self) -> Iterator[None]:
        """Go on with the rest after a failure; log once what only somebody else can repair."""
        try:
            yield
        except JobError as error:
            is_news = not error.is_transient and error.message not in self._told
            if is_news and len(self._told) < len(Priority) * 10:
                self._told.add(error.message)
                logger.warning("a consumer could not be repaired: %s", error.message)
            else:
                logger.debug("the consumers are checked again: %s", error.message)
