"""The server's clock, by which leases are counted: workers' clocks may differ."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from jsjobs.jetstream.api import find, server_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError

_ASK_EVERY = 60.0
"""Seconds between two questions; meanwhile it is counted on by a clock that nobody sets."""


class ServerClock:
    """Tells the server's time."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._told: tuple[float, datetime] | None = None

    async def now(self) -> datetime:
        """The time there.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        if self._told is None or time.monotonic() - self._told[0] > _ASK_EVERY:
            info = await find(self._connection, f"STREAM.INFO.{self._names.state_stream}")
            if info is None:
                raise JobError.from_runner_unavailable(f"the bucket {self._names.bucket!r} does not exist")
            self._told = (time.monotonic(), server_time(info))
        asked_at, told = self._told
        return told + timedelta(seconds=time.monotonic() - asked_at)
