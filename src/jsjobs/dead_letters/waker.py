"""Wakes the consumers that stall: those of the shards, and the one that hands out letters."""

from __future__ import annotations

import asyncio

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.stalled import LOOK_AGAIN, LOOK_EVERY, Stalls, wake
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.router")


class Waker:
    """Looks every two seconds for consumers that stall, and wakes them; any number of these may run."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._stalls = Stalls()
        self._was_refused = False

    async def watch(self) -> None:
        """Look on and on, until this is cancelled."""
        while True:
            try:
                await self._look()
            except JobError as error:
                logger.debug("stalled consumers are looked for again: %s", error.message)
            except Exception:
                logger.exception("the look for stalled consumers failed; it is repeated")
            await asyncio.sleep(LOOK_AGAIN if self._stalls.suspected else LOOK_EVERY)

    async def _look(self) -> None:
        infos = [*(await live_shards(self._connection, self._names)).values()]
        letters = await find(self._connection, f"CONSUMER.INFO.{self._names.dead_stream}.{self._names.router}")
        if letters is not None:
            infos.append(letters)
        for place in self._stalls.stalled(infos):
            try:
                await wake(self._connection, self._names, place, logger)
            except NotPermitted as error:
                if not self._was_refused:
                    self._was_refused = True
                    logger.warning("stalled consumers stay so: %s", error.message)
