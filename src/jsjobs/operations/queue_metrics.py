"""Report the state of the queues to telemetry: every ten seconds, in the background, in processes told to do so."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Self

from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES, Queue
from jsjobs.model.queues import Depth
from jsjobs.poller import Poller
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.telemetry")

EVERY = 10.0
"""Seconds between two readings."""


class QueueMetrics:
    """Report the queues' state to telemetry; an async context manager.

    It reports how many jobs each queue has taken, how many wait and run in each shard and partition, and how many
    letters wait.
    """

    def __init__(self, connection: Connection, names: Names, telemetry: Telemetry | None) -> None:
        self._connection = connection
        self._names = names
        self._telemetry = telemetry
        self._poller: Poller | None = None

    async def __aenter__(self) -> Self:
        if self._telemetry is None:
            logger.warning("queue metrics are asked for, but telemetry is off: set OTEL_EXPORTER_OTLP_ENDPOINT")
        else:
            self._connection.home.check()
            self._poller = Poller(partial(self._look_again, self._telemetry), lambda: EVERY)
            self._poller.soon()
            self._poller.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._poller is not None and self._telemetry is not None:
            await self._poller.stop()
            self._telemetry.no_queues()

    async def _look_again(self, telemetry: Telemetry) -> None:
        try:
            await self._look(telemetry)
        except JobError as error:
            telemetry.no_queues()  # an old number is worse than none
            logger.debug("the queues cannot be read: %s", error)
        except Exception:
            telemetry.no_queues()
            logger.exception("the queues cannot be read")

    async def _look(self, telemetry: Telemetry) -> None:
        depths: Counter[Depth] = Counter()
        enqueued = {queue: await self._enqueued(queue) for queue in QUEUES}
        shards = await live_shards(self._connection, self._names)
        partitions = await live_partitions(self._connection, self._names)
        places: list[tuple[Shard | Partition, ConsumerInfo]] = [*shards.items(), *partitions.items()]
        for place, info in places:
            # While the shard count changes, two generations have a shard of the same number.
            for state, jobs in (("waiting", info.num_pending), ("running", info.num_ack_pending)):
                depths[Depth(place.queue, place.number, state)] += jobs
        dead = await find_stream(self._connection, self._names.dead_stream)
        letters = 0 if dead is None else dead.state.messages
        known = {queue: count for queue, count in enqueued.items() if count is not None}
        telemetry.queues(depths, known, letters)

    async def _enqueued(self, queue: Queue) -> int | None:
        """Return how many jobs a queue has taken since its creation, as the server numbered them, whoever published."""
        info = await find_stream(self._connection, self._names.queue(queue))
        if info is None:
            return None
        return max(0, info.state.last_seq - (info.config.first_seq or 1) + 1)
