"""arq on Redis with an append-only file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import ArqRedis, Worker, create_pool, func
from arq.connections import RedisSettings
from harness.side import CONCURRENCY, RESULT, Client, Handle, Place, Side


class _Client(Client):
    def __init__(self, pool: ArqRedis, poll: float) -> None:
        self._pool = pool
        self._poll = poll

    async def submit(self, payload: Any) -> Any:
        return await self._pool.enqueue_job("noop", payload)

    async def call(self, payload: Any) -> None:
        await (await self.submit(payload)).result(poll_delay=self._poll)


class Arq(Side):
    title = "arq, 10 ms poll"
    broker = "redis"
    packages = ("arq", "redis", "hiredis", "uvloop")
    share = 0.3
    results = True
    setting = "Redis as for SAQ, ten at once (its default), results for an hour; both sides poll every 10 ms (its default is 500 ms)"
    lacks = "history, order, fencing"
    poll = 0.01

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        pool = await create_pool(RedisSettings.from_dsn(place.url))
        yield _Client(pool, self.poll)
        await pool.aclose()

    async def work(self, place: Place, handle: Handle) -> None:
        async def noop(_: Any, payload: dict[str, Any]) -> dict[str, bool]:
            handle(payload)
            return RESULT

        worker = Worker(
            [func(noop, name="noop")],
            redis_settings=RedisSettings.from_dsn(place.url),
            max_jobs=CONCURRENCY,
            poll_delay=self.poll,
            handle_signals=False,
        )
        await worker.async_run()


class ArqDefault(Arq):
    title = "arq, 500 ms poll (its default)"
    share = 0.02
    results = False
    setting = "as `arq, 10 ms poll`, but with its default poll; only its latency is measured"
    poll = 0.5
