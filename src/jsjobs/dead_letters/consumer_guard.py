"""Keeps consumers at work: wakes those that stall, of shards and of letters, and has missing ones made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import live_shards, read_live
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.stalled import LOOK_AGAIN, LOOK_EVERY, Stalls, wake
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.router")


class ConsumerGuard:
    """Looks every two seconds for consumers that stall or are missing; any number of these may run."""

    def __init__(self, connection: Connection, names: Names, restore: Callable[[], Awaitable[None]]) -> None:
        """Begin without a memory.

        Args:
            connection: To the server.
            names: The namespace.
            restore: Makes missing consumers again.
        """
        self._connection = connection
        self._names = names
        self._restore = restore
        self._stalls = Stalls()
        self._missing: set[Shard] = set()
        self._was_refused = False

    async def watch(self) -> None:
        """Look on and on, until this is cancelled."""
        while True:
            try:
                await self._look()
            except JobError as error:
                logger.debug("the consumers are looked at again: %s", error.message)
            except Exception:
                logger.exception("the look at the consumers failed; it is repeated")
            await asyncio.sleep(LOOK_AGAIN if self._stalls.suspected or self._missing else LOOK_EVERY)

    async def _look(self) -> None:
        shards = await live_shards(self._connection, self._names)
        await self._make_again(await self._first() - set(shards))
        infos = [*shards.values()]
        letters = await find(self._connection, f"CONSUMER.INFO.{self._names.dead_stream}.{self._names.router}")
        if letters is not None:
            infos.append(letters)
        await self._wake(infos)

    async def _first(self) -> set[Shard]:
        """The shards whose turn it is; those of generations that wait for it may not be there yet."""
        lives = await asyncio.gather(*(read_live(self._connection, self._names, priority) for priority in Priority))
        return {
            Shard(priority, live.generations[0], number)
            for priority, live in zip(Priority, lives, strict=True)
            if live.generations
            for number in range(live.generations[0].shards)
        }

    async def _make_again(self, missing: set[Shard]) -> None:
        """Have lost consumers made again; those that a change of the shard count removes are missing for one look."""
        lost, self._missing = missing & self._missing, missing
        if lost:
            logger.warning("consumers are missing and made again: %s", ", ".join(sorted(one.consumer for one in lost)))
            self._missing = set()
            await self._restore()

    async def _wake(self, infos: list[dict[str, Any]]) -> None:
        for place in self._stalls.stalled(infos):
            try:
                await wake(self._connection, self._names, place, logger)
            except NotPermitted as error:
                if not self._was_refused:
                    self._was_refused = True
                    logger.warning("stalled consumers stay so: %s", error.message)
