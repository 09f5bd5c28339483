"""The floors: plain nats-py on jsjobs' own streams and consumers, without history, fencing, validation or handlers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
from harness.side import Client, Handle, Place, Side
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from jsjobs.model.job import Priority
from sides.ours import NAMESPACE, Ordered, settings


class _Client(Client):
    """nats-py's own ways to publish."""

    batches = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream = connection.jetstream()
        self._numbers = itertools.count(int.from_bytes(os.urandom(4)))

    def _subject(self) -> str:
        # An entity of its own for each job, so that jobs cycle over the shards.
        return f"{NAMESPACE}.normal._{next(self._numbers):x}.noop"

    async def submit(self, payload: Any) -> Any:
        return await self._stream.publish(self._subject(), json.dumps(payload).encode())

    async def pipeline(self, payloads: Sequence[Any]) -> None:
        publish = self._stream.publish_async
        await asyncio.gather(*[await publish(self._subject(), json.dumps(payload).encode()) for payload in payloads])

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        """An atomic batch, as the server wants it; nats-py has no call for it."""
        batch, last = self._connection._nuid.next().decode(), len(payloads)  # noqa: SLF001 - its fastest unique name
        for number, payload in enumerate(payloads, 1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            body = json.dumps(payload).encode()
            if number < last:
                await self._connection.publish(self._subject(), body, headers=headers)
            else:
                headers["Nats-Batch-Commit"] = "1"
                answer = await self._connection.request(self._subject(), body, timeout=10, headers=headers)
                assert json.loads(answer.data)["count"] == last


class AckOnly(Side):
    """Takes each delivery and acknowledges it."""

    title = "nats-py, ack only"
    packages = ("nats-py", "uvloop")
    share = 2.5
    setting = "jsjobs' streams and consumers"
    lacks = "everything but the delivery: no handler, state, result or history"
    ways = ("one by one", "pipelined", "batches")

    async def prepare(self, place: Place) -> None:
        await Ordered().prepare(place)

    async def fill(self, place: Place) -> None:
        await Ordered().fill(place)

    @asynccontextmanager
    async def client(self, place: Place) -> AsyncIterator[Client]:
        connection = await nats.connect(place.url)
        yield _Client(connection)
        await connection.close()

    async def work(self, place: Place, handle: Handle) -> None:
        connection = await nats.connect(place.url)
        on_job = await self._on_job(connection, handle)
        for priority in Priority:
            shards = settings(place).shards(priority)
            for shard in range(shards):
                subject = f"{NAMESPACE}.deliver.{priority}.1x{shards}.{shard}"
                await connection.subscribe(subject, queue="workers", cb=on_job)
        await asyncio.Event().wait()

    async def _on_job(self, _: Connection, handle: Handle) -> Callable[[Msg], Awaitable[None]]:
        async def on_job(message: Msg) -> None:
            handle(message.data)
            await message.ack()

        return on_job


class Bare(AckOnly):
    """Writes two entries to the bucket, each compare-and-set and awaited, before it acknowledges."""

    title = "nats-py, the same two state writes"
    share = 1.0
    lacks = "handlers, validation, history, results, fencing, time limits, retries: two constant entries are written"

    async def _on_job(self, connection: Connection, handle: Handle) -> Callable[[Msg], Awaitable[None]]:
        write = await _writer(connection)

        async def on_job(message: Msg) -> None:
            priority = message.subject.split(".")[2]
            key = f"$KV.{NAMESPACE}.{priority}-{message.metadata.sequence.stream}"
            revision = await write(key, b'{"status":"processing","attempts":1}', 0)
            handle(message.data)
            await write(key, b'{"status":"complete","attempts":1}', revision)
            await message.ack()

        return on_job


async def _writer(connection: Connection) -> Callable[[str, bytes, int], Awaitable[int]]:
    """One reply inbox and a table of futures: nats-py's fastest way to await acknowledgements."""
    waiting: dict[str, asyncio.Future[bytes]] = {}
    inbox, numbers = connection.new_inbox(), itertools.count()

    async def on_ack(message: Msg) -> None:
        waiting.pop(message.subject).set_result(message.data)

    async def write(key: str, body: bytes, expected: int) -> int:
        reply = f"{inbox}.{next(numbers)}"
        future = waiting[reply] = asyncio.get_running_loop().create_future()
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        await connection.publish(key, body, reply=reply, headers=headers)
        return int(json.loads(await future)["seq"])

    await connection.subscribe(f"{inbox}.*", cb=on_ack)
    return write
