"""The pauses of a priority's shards, and a taker of all of its jobs."""

import asyncio
from datetime import datetime

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.model.job import Priority

HIGH = Priority.HIGH


async def shards_of(connection: Connection, names: Names, priority: Priority) -> dict[str, datetime | None]:
    found = await live_shards(connection, names, (priority,))
    return {shard.consumer: info.paused_until for shard, info in found.items()}


async def settled(connection: Connection, names: Names) -> dict[str, datetime | None] | None:
    """The shards' pauses, once none of them is about to end."""
    shards = await shards_of(connection, names, HIGH)
    return shards if set(shards.values()) <= {None, UNTIL_RESUMED} else None


class answering:  # noqa: N801 - a block
    """Takes every job of a priority's shards, of whatever generation, and acknowledges it."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._sids: dict[Shard, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self.taken: list[bytes] = []

    async def __aenter__(self) -> list[bytes]:
        self._looking = asyncio.create_task(self._look())
        return self.taken

    async def _look(self) -> None:
        while True:
            for shard in set(await live_shards(self._connection, self._names, (HIGH,))) - set(self._sids):
                subject = self._names.deliver(shard).encode()
                self._sids[shard] = await self._connection.receive(subject, self._take, queue="workers")
            await asyncio.sleep(0.02)

    def _take(self, _subject: bytes, reply: bytes, _header: bytes, data: bytes) -> None:
        self.taken.append(data)
        self._connection.post(reply, b"+ACK")

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        for sid in self._sids.values():
            await self._connection.stop_receiving(sid, drain=False)
