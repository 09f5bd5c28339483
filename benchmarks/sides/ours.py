"""jsjobs, as users start it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
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


def settings(place: Place) -> Config:
    """Those of a user who set nothing, but for what is being measured."""
    return load(nats_url=place.url, namespace=NAMESPACE, scale=place.scale)


class _Client(Client):
    batches = True

    def __init__(self, service: JobService, entities: Iterator[str | None]) -> None:
        self._service = service
        self._entities = entities

    async def submit(self, payload: Any) -> Any:
        return await self._service.submit("noop", payload, entity=next(self._entities))

    async def call(self, payload: Any) -> None:
        await self._service.result(await self.submit(payload))

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        await self._service.submit("noop", list(payloads), entity=next(self._entities))


class Ours(Side):
    """Submits as whoever names no entity, priority or tenant: all jobs run in one partition of a parallel lane."""

    title = "jsjobs"
    packages = ("jsjobs", "nats-py", "uvloop", "pydantic")
    results = True
    setting = "the defaults: file storage, a hundred at once in the parallel lane"
    ways = ("one by one", "pipelined", "batches")

    async def prepare(self, place: Place) -> None:
        connection = Connection()
        await connection.open(place.url)
        await TopologyReconciler(connection, Names(NAMESPACE), settings(place)).apply()
        await connection.close()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        async with JobService(settings(place)) as service:
            yield _Client(service, self.entities())

    def entities(self) -> Iterator[str | None]:
        """Yield the entity of each job."""
        return itertools.repeat(None)

    def jobs(self, place: Place) -> dict[Priority, int]:
        """Return how many jobs of each priority are queued."""
        return {Priority.NORMAL: place.jobs}

    async def fill(self, place: Place) -> None:
        """Queue jobs as plain messages."""
        connection = Connection()
        await connection.open(place.url)
        queue, entities = JobQueue(connection, Names(NAMESPACE)), self.entities()
        body = encode_json(place.payload, "the payload")
        # Few bytes at once, so that large payloads do not pile up in memory.
        window = min(WINDOW, max(10, 10_000_000 // len(body)))
        for priority, left in self.jobs(place).items():
            for start in range(0, left, window):
                batch = min(window, left - start)
                await queue.publish_batch([queue.job(priority, next(entities), "noop", body) for _ in range(batch)])
        await connection.close()

    async def work(self, place: Place, handle: Handle) -> None:
        service = JobService(settings(place))
        _HANDLERS[place.failing](service, handle)
        async with service, service.worker():
            await asyncio.Event().wait()


class Ordered(Ours):
    """Submits each job with an entity of its own, so that jobs cycle over the ordered shards of all priorities."""

    title = "jsjobs, ordered"
    setting = "the defaults: file storage, ten ordered shards"

    def entities(self) -> Iterator[str | None]:
        """Yield the entity of each job."""
        return (f"e{number}" for number in itertools.count(int.from_bytes(os.urandom(4))))

    def jobs(self, place: Place) -> dict[Priority, int]:
        """As many jobs per shard in every priority."""
        shards = {priority: settings(place).shards(priority) for priority in Priority}
        jobs = {priority: place.jobs * count // sum(shards.values()) for priority, count in shards.items()}
        jobs[Priority.LOW] += place.jobs - sum(jobs.values())
        return jobs


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
