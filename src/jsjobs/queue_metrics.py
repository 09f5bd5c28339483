"""What the queues tell: the server is asked seldom, in the background, by the processes that are told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.telemetry")

EVERY = 10.0
"""Seconds between two looks."""


class QueueMetrics:
    """Tells telemetry what the server says of the queues; an async context manager.

    That is how many jobs each has taken, how many wait and run in each shard, and how many letters wait.
    """

    def __init__(self, connection: Connection, names: Names, telemetry: Telemetry | None) -> None:
        self._connection = connection
        self._names = names
        self._telemetry = telemetry
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._telemetry is None:
            logger.warning("queue metrics are asked for, but telemetry is off: set OTEL_EXPORTER_OTLP_ENDPOINT")
        else:
            self._connection.home.check()
            self._stopped = False
            self._task = asyncio.ensure_future(self._look_on(self._telemetry))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None and self._telemetry is not None:
            self._stopped = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._telemetry.no_queues()

    async def _look_on(self, telemetry: Telemetry) -> None:
        while not self._stopped:  # a cancellation alone can be lost: Python 3.11's `wait_for` swallows some
            try:
                await self._look(telemetry)
            except JobError as error:
                telemetry.no_queues()  # an old number is worse than none
                logger.debug("the queues cannot be looked at: %s", error)
            except Exception:
                telemetry.no_queues()
                logger.exception("the queues cannot be looked at")
            await asyncio.sleep(EVERY)

    async def _look(self, telemetry: Telemetry) -> None:
        depths: dict[tuple[str, int, str], int] = {}
        enqueued = {priority.value: await self._enqueued(priority) for priority in Priority}
        for shard, info in (await live_shards(self._connection, self._names)).items():
            # While the shard count changes, a shard's number stands in two generations.
            for state, key in (("waiting", "num_pending"), ("running", "num_ack_pending")):
                at = (shard.priority.value, shard.number, state)
                depths[at] = depths.get(at, 0) + info[key]
        dead = await find(self._connection, f"STREAM.INFO.{self._names.dead_stream}")
        letters = 0 if dead is None else dead["state"]["messages"]
        known = {priority: count for priority, count in enqueued.items() if count is not None}
        telemetry.queues(depths, known, letters)

    async def _enqueued(self, priority: Priority) -> int | None:
        """How many jobs a queue has taken since it was made: what the server itself numbered, whoever published it."""
        info = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
        if info is None:
            return None
        first: int = info["config"].get("first_seq") or 1
        taken: int = info["state"]["last_seq"] - first + 1
        return max(0, taken)
