"""FastStream on JetStream, by a durable pull consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from harness.side import CONCURRENCY, Client, Handle, Place, Side
from nats.js.api import RetentionPolicy, StreamConfig

_STREAM = "noop"


class _Client(Client):
    def __init__(self, broker: NatsBroker) -> None:
        self._broker = broker

    async def submit(self, payload: Any) -> Any:
        return await self._broker.publish(payload, "noop", stream=_STREAM)


class FastStream(Side):
    title = "FastStream, pull"
    packages = ("faststream", "nats-py", "uvloop")
    setting = "durable pull consumer (as its documentation advises), a hundred at a time, work-queue stream, ten workers, acknowledged after the handler"
    lacks = "results, history, order, delayed retries, fencing"

    async def prepare(self, place: Place) -> None:
        connection = await nats.connect(place.url)
        config = StreamConfig(name=_STREAM, subjects=["noop"], retention=RetentionPolicy.WORK_QUEUE)
        await connection.jetstream().add_stream(config)
        await connection.close()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        async with NatsBroker(place.url) as broker:
            yield _Client(broker)

    async def work(self, place: Place, handle: Handle) -> None:
        broker = NatsBroker(place.url, logger=None)

        @broker.subscriber(
            "noop",
            durable="workers",
            stream=JStream(_STREAM, declare=False),
            pull_sub=PullSub(batch_size=100),
            max_workers=CONCURRENCY,
            ack_policy=AckPolicy.NACK_ON_ERROR,
        )
        async def noop(payload: dict[str, Any]) -> None:
            handle(payload)

        await broker.start()
        await asyncio.Event().wait()
