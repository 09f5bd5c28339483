"""PgQueuer on Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pgqueuer
from harness.side import CONCURRENCY, Client, Handle, Place, Side
from pgqueuer.queries import Queries


class _Client(Client):
    batches = True

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def submit(self, payload: Any) -> Any:
        return await self._queries.enqueue("noop", json.dumps(payload).encode())

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        count = len(payloads)
        await self._queries.enqueue(
            ["noop"] * count, [json.dumps(payload).encode() for payload in payloads], [0] * count
        )


class PgQueuer(Side):
    title = "PgQueuer"
    broker = "postgres"
    packages = ("pgqueuer", "asyncpg", "uvloop")
    share = 0.5
    setting = "Postgres with synchronous commits, logged tables, LISTEN/NOTIFY, batches of ten (its defaults)"
    lacks = "results, order, fencing; it keeps the times of a done job's states"
    ways = ("one by one", "batches")

    async def prepare(self, place: Place) -> None:
        connection = await asyncpg.connect(place.url)
        await Queries.from_asyncpg_connection(connection).install()
        await connection.close()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        connection = await asyncpg.connect(place.url)
        yield _Client(Queries.from_asyncpg_connection(connection))
        await connection.close()

    async def work(self, place: Place, handle: Handle) -> None:
        manager = pgqueuer.PgQueuer.from_asyncpg_connection(await asyncpg.connect(place.url))

        @manager.entrypoint("noop")
        async def noop(job: pgqueuer.Job) -> None:
            handle(job.payload)

        await manager.run(batch_size=CONCURRENCY)
