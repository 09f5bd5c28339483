"""The server's clock, by which jobs are delayed, entries expire and leases are counted; clocks of machines differ."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import utc_now
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.publishing")

_ASK_EVERY = 60.0
"""Seconds between two questions; meanwhile the time is counted with a clock that nobody sets."""
_PATIENCE = 10.0
_WITHIN = 2.0
"""Seconds that a publisher waits for an answer before it falls back to its own clock."""


class ServerClock:
    """A clock that shows the server's time."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._told: tuple[float, datetime] | None = None
        self._ask_again_at = 0.0
        self._asking = asyncio.Lock()

    async def now(self) -> datetime:
        """Return the server's time.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        if not self._is_fresh():
            await self._ask(_PATIENCE)
        return self._counted()

    async def now_or_own(self) -> datetime:
        """Return the server's time, or this machine's if the server cannot be asked.

        That is so, for example, where this user has no right to ask.
        """
        if not self._is_fresh():
            async with self._asking:  # of many concurrent submits, only one asks
                if not self._is_fresh() and time.monotonic() >= self._ask_again_at:
                    await self._ask_if_possible()
        return utc_now() if self._told is None else self._counted()

    def _is_fresh(self) -> bool:
        return self._told is not None and time.monotonic() - self._told[0] <= _ASK_EVERY

    def _counted(self) -> datetime:
        assert self._told is not None
        told_at, told = self._told
        return told + timedelta(seconds=time.monotonic() - told_at)

    async def _ask_if_possible(self) -> None:
        try:
            await self._ask(_WITHIN)
        except JobError as error:
            self._ask_again_at = time.monotonic() + _ASK_EVERY
            logger.debug("the server's time is not known: %s", error.message)

    async def _ask(self, within: float) -> None:
        info = await find_stream(self._connection, self._names.state_stream, timeout=within)
        if info is None:
            raise JobError.from_runner_unavailable(f"the bucket {self._names.bucket!r} does not exist")
        self._told = (time.monotonic(), info.ts)
