"""Procrastinate on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
from harness.side import CONCURRENCY, Client, Handle, Place, Side


def _app(place: Place, handle: Handle) -> tuple[procrastinate.App, Any]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place.url))

    @app.task(name="noop")
    async def noop(payload: dict[str, Any]) -> None:
        handle(payload)

    return app, noop


class _Client(Client):
    batches = True

    def __init__(self, task: Any) -> None:
        self._task = task

    async def submit(self, payload: Any) -> Any:
        return await self._task.defer_async(payload=payload)

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        await self._task.batch_defer_async(*({"payload": payload} for payload in payloads))


class Procrastinate(Side):
    title = "Procrastinate"
    broker = "postgres"
    packages = ("procrastinate", "psycopg", "psycopg-pool", "uvloop")
    share = 0.05
    setting = "Postgres with synchronous commits, LISTEN/NOTIFY, ten at once; done jobs and their events are kept (its default)"
    lacks = "results, fencing; order only by a lock that each job names"
    ways = ("one by one", "batches")

    async def prepare(self, place: Place) -> None:
        app, _ = _app(place, lambda _: None)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        app, task = _app(place, lambda _: None)
        async with app.open_async():
            yield _Client(task)

    async def work(self, place: Place, handle: Handle) -> None:
        app, _ = _app(place, handle)
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
