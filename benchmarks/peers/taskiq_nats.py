"""taskiq on JetStream, by its push consumer; and the same with results, which it keeps in an object store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness.side import RESULT, Client, Handle, Place, Side
from taskiq import AsyncBroker
from taskiq.api import run_receiver_task
from taskiq_nats import NATSObjectStoreResultBackend, PushBasedJetStreamBroker

_POLL = 0.01
"""Seconds between two looks for a result; its default is 0.2."""


class _Producer(PushBasedJetStreamBroker):
    """Its push broker consumes in every process that connects: what is only submitted there would wait for ack_wait."""

    async def _startup_consumer(self) -> None:
        pass


class _Client(Client):
    def __init__(self, broker: AsyncBroker) -> None:
        self._task = _task(broker, lambda _: None)

    async def submit(self, payload: Any) -> Any:
        return await self._task.kiq(payload)

    async def call(self, payload: Any) -> None:
        await (await self.submit(payload)).wait_result(check_interval=_POLL)


def _task(broker: AsyncBroker, handle: Handle) -> Any:
    @broker.task(task_name="noop")
    async def noop(payload: dict[str, Any]) -> dict[str, bool]:
        handle(payload)
        return RESULT

    return noop


class TaskiqNats(Side):
    title = "taskiq-nats, push"
    packages = ("taskiq", "taskiq-nats", "nats-py", "uvloop")
    setting = "JetStream push consumer, file storage, 100 tasks at once (its defaults)"
    lacks = "results, history, order, delayed retries, fencing; done jobs stay in the stream"

    def _with_results(self, broker: AsyncBroker, _: Place) -> AsyncBroker:
        return broker

    async def prepare(self, place: Place) -> None:
        broker = self._with_results(_Producer(place.url), place)
        await broker.startup()
        await broker.shutdown()

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        broker = self._with_results(_Producer(place.url), place)
        await broker.startup()
        yield _Client(broker)
        await broker.shutdown()

    async def work(self, place: Place, handle: Handle) -> None:
        broker = self._with_results(PushBasedJetStreamBroker(place.url, queue="workers"), place)
        _task(broker, handle)
        await run_receiver_task(broker, run_startup=True)


class TaskiqNatsResults(TaskiqNats):
    title = "taskiq-nats, push, with results"
    share = 0.2
    results = True
    setting = "as `taskiq-nats, push`, with NATSObjectStoreResultBackend; a submitter asks every 10 ms (its default is 200 ms)"
    lacks = "history, order, delayed retries, fencing"
    ways = ()

    def _with_results(self, broker: AsyncBroker, place: Place) -> AsyncBroker:
        return broker.with_result_backend(NATSObjectStoreResultBackend(place.url))
