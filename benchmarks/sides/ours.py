"""jsjobs, as users start it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness.side import RESULT, WINDOW, Client, Handle, Place, Side

from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.headers import encode_json
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.settings import Config, load

NAMESPACE = "bench"


def settings(place: Place, scale: int = 1) -> Config:
    """Those of a user who set nothing, but for what is being measured."""
    return load(nats_url=place.url, namespace=NAMESPACE, scale=place.scale * scale)


class _Client(Client):
    batches = True

    def __init__(self, service: JobService) -> None:
        self._service = service

    async def submit(self, payload: Any) -> Any:
        return await self._service.submit("noop", payload)

    async def call(self, payload: Any) -> None:
        await self._service.result(await self._service.submit("noop", payload))

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        await self._service.submit("noop", list(payloads))


class Ours(Side):
    title = "jsjobs"
    packages = ("jsjobs", "nats-py", "uvloop", "pydantic")
    results = True
    setting = "the defaults: file storage, ten shards"
    ways = ("one by one", "pipelined", "batches")
    scale = 1

    def settings(self, place: Place) -> Config:
        """Of this side."""
        return settings(place, self.scale)

    async def prepare(self, place: Place) -> None:
        connection = Connection()
        await connection.open(place.url)
        await TopologyReconciler(connection, Names(NAMESPACE), self.settings(place)).apply()
        await connection.close()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        async with JobService(self.settings(place)) as service:
            yield _Client(service)

    async def fill(self, place: Place) -> None:
        """As many jobs per shard in every priority, as plain messages."""
        connection = Connection()
        await connection.open(place.url)
        queue = JobQueue(connection, Names(NAMESPACE))
        body = encode_json(place.payload, "the payload")
        shards = {priority: self.settings(place).shards(priority) for priority in Priority}
        # Few bytes at once, so that large payloads do not pile up in memory.
        window = min(WINDOW, max(10, 10_000_000 // len(body)))
        queued = 0
        for priority, count in shards.items():
            left = place.jobs * count // sum(shards.values())
            if priority is Priority.LOW:
                left = place.jobs - queued
            queued += left
            while left:
                batch = min(left, window)
                await queue.publish_batch([queue.job(priority, None, "noop", body) for _ in range(batch)])
                left -= batch
        await connection.close()

    async def work(self, place: Place, handle: Handle) -> None:
        service = JobService(self.settings(place))
        _HANDLERS[place.failing](service, handle)
        async with service, service.worker():
            await asyncio.Event().wait()


class Scaled(Ours):
    """As many jobs at once as libraries without an order run by themselves, or nearly."""

    title = "jsjobs, scale 4"
    setting = "the defaults, but forty shards"
    scale = 4


def _plain(service: JobService, handle: Handle) -> None:
    @service.handler("noop")
    async def noop(payload: dict[str, Any]) -> dict[str, bool]:
        handle(payload)
        return RESULT


def _dead(service: JobService, handle: Handle) -> None:
    calls = 0

    @service.handler("noop")
    async def noop(payload: dict[str, Any]) -> dict[str, bool]:
        nonlocal calls
        calls += 1
        handle(payload)
        if calls % 10 == 0:
            raise JobService.Error("Validation", "every tenth fails")
        return RESULT


def _once(service: JobService, handle: Handle) -> None:
    calls = 0

    @service.handler("noop")
    async def noop(payload: dict[str, Any], ctx: JobService.Context) -> dict[str, bool]:
        nonlocal calls
        if ctx.attempt == 1:
            calls += 1
            if calls % 10 == 0:
                raise ValueError("every tenth fails once")
        handle(payload)
        return RESULT


_HANDLERS = {"": _plain, "once": _once, "dead": _dead}
