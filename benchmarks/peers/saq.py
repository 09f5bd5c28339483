"""SAQ on Redis with an append-only file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from harness.side import CONCURRENCY, RESULT, Client, Handle, Place, Side
from saq import Queue, Worker

_PATIENCE = 0.1
"""Seconds after which a submitter looks again."""


class _Client(Client):
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def submit(self, payload: Any) -> Any:
        return await self._queue.enqueue("noop", payload=payload)

    async def call(self, payload: Any) -> None:
        # Its `apply` sleeps half a second between two looks; a refresh is told by the server.
        job = await self.submit(payload)
        while not job.completed:
            with suppress(TimeoutError):  # it looked too early, and listened too late
                await job.refresh(until_complete=_PATIENCE)


class Saq(Side):
    title = "SAQ"
    broker = "redis"
    packages = ("saq", "redis", "hiredis", "uvloop")
    share = 0.3
    results = True
    setting = "Redis with an append-only file synced every second, ten at once (its default), results for ten minutes"
    lacks = "history, order, fencing"

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        queue = Queue.from_url(place.url)
        await queue.connect()
        yield _Client(queue)
        await queue.disconnect()

    async def work(self, place: Place, handle: Handle) -> None:
        async def noop(_: Any, *, payload: dict[str, Any]) -> dict[str, bool]:
            handle(payload)
            return RESULT

        await Worker(Queue.from_url(place.url), [("noop", noop)], concurrency=CONCURRENCY).start()
