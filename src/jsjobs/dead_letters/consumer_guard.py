"""Keeps consumers at work: wakes those that stall, of shards and of letters, and has missing ones made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import router_faults, shard_faults
from jsjobs.jetstream.generations import LastLive, live_shards
from jsjobs.jetstream.stalled import LOOK_AGAIN, LOOK_EVERY, Stalls, wake
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.router")

_IN_VAIN = 30.0
"""Seconds until missing consumers are tried to be made again, where none could be: the shard count is being changed."""


class ConsumerGuard:
    """Looks every two seconds for consumers that stall or are missing; any number of these may run."""

    def __init__(
        self, connection: Connection, names: Names, config: Config, restore: Callable[[], Awaitable[list[str]]]
    ) -> None:
        """Begin without a memory.

        Args:
            connection: To the server.
            names: The namespace.
            config: What is declared.
            restore: Makes missing consumers again, and those that cannot deliver as they should, and tells which.
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
        """Look on and on, until this is cancelled."""
        while True:
            try:
                await self._look()
            except Exception:
                logger.exception("the look at the consumers failed; it is repeated")
            soon = self._stalls.suspected or (self._missing and time.monotonic() >= self._restore_at)
            await asyncio.sleep(LOOK_AGAIN if soon else LOOK_EVERY)

    async def _look(self) -> None:
        """Look at everything, whatever cannot be looked at or mended."""
        infos, missing = list[dict[str, Any]](), set[str]()
        for priority in Priority:
            with self._whatever_fails():
                shards = await live_shards(self._connection, self._names, (priority,))
                infos += shards.values()
                missing |= {one.consumer for one in shards if self._is_at_fault(one, shards[one])}
                missing |= {one.consumer for one in await self._first(priority) - set(shards)}
        with self._whatever_fails():
            letters = await find(self._connection, f"CONSUMER.INFO.{self._names.dead_stream}.{self._names.router}")
            if letters is None or router_faults(self._names, letters["config"]):
                missing.add(self._names.router)
            infos += [] if letters is None else [letters]
        for place in self._stalls.stalled(infos):
            with self._whatever_fails():
                await wake(self._connection, self._names, place, logger)
        with self._whatever_fails():
            await self._make_again(missing)

    def _is_at_fault(self, shard: Shard, info: dict[str, Any]) -> bool:
        return bool(shard_faults(self._config, self._names, shard, info["config"]))

    async def _first(self, priority: Priority) -> set[Shard]:
        """The shards whose turn it is; those of generations that wait for it may not be there yet."""
        generations = (await self._live.read(priority)).generations
        return {Shard(priority, first, number) for first in generations[:1] for number in range(first.shards)}

    async def _make_again(self, missing: set[str]) -> None:
        """Have lost consumers made again; those that a change of the shard count removes are missing for one look."""
        lost, self._missing = missing & self._missing, missing
        if lost and time.monotonic() >= self._restore_at:
            self._restore_at = time.monotonic() + _IN_VAIN
            if made := await self._restore():
                self._restore_at, self._missing = 0.0, set()
                logger.warning("consumers were missing or wrong and are made again: %s", ", ".join(sorted(made)))

    @contextmanager
    def _whatever_fails(self) -> Iterator[None]:
        """Go on with the rest; what only somebody else can mend is told once."""
        try:
            yield
        except JobError as error:
            is_news = not error.is_transient and error.message not in self._told
            if is_news and len(self._told) < len(Priority) * 10:
                self._told.add(error.message)
                logger.warning("a consumer may stay as it is: %s", error.message)
            else:
                logger.debug("the consumers are looked at again: %s", error.message)
