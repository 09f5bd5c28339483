"""Shards that have a job in flight, and what a look at them sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.overview import Overview, PriorityLook
from jsjobs.jetstream.protocol.names import Names, Shard

LISTED = 50


def of(overview: Overview, priority: str) -> PriorityLook:
    return next(look for look in overview.priorities if look.priority == priority)


@asynccontextmanager
async def held(jobs: JobService) -> AsyncIterator[asyncio.Event]:
    """A worker whose `held` jobs run until the event is set."""
    go_on = asyncio.Event()

    @jobs.handler("held")
    async def hold(payload: Any) -> None:
        await go_on.wait()

    async with jobs.worker():
        try:
            yield go_on
        finally:
            go_on.set()


@asynccontextmanager
async def holding(connection: Connection, names: Names, *shards: Shard) -> AsyncIterator[list[bytes]]:
    """Takes the shards' jobs and settles none; the reply subjects of what came."""
    replies: list[bytes] = []

    def take(_subject: bytes, reply: bytes, _header: bytes, _data: bytes) -> None:
        replies.append(reply)

    sids = [await connection.receive(names.deliver(shard).encode(), take, queue="workers") for shard in shards]
    yield replies
    for sid in sids:
        await connection.stop_receiving(sid, drain=False)
