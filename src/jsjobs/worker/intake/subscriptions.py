"""Take deliveries: subscribe to all shards for as long as the worker runs."""

from __future__ import annotations

import asyncio

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.interface import Receiver
from jsjobs.jetstream.protocol.names import Names, Shard

QUEUE = "workers"
"""The queue group of all workers: a delivery goes to one of them."""


class Subscriptions:
    """Take whatever the server delivers, from every shard at once."""

    def __init__(self, connection: Connection, names: Names, receiver: Receiver) -> None:
        self._connection = connection
        self._names = names
        self._receiver = receiver
        self._subscriptions: dict[Shard, int] = {}

    @property
    def taken(self) -> set[Shard]:
        """Return the shards that this worker works."""
        return set(self._subscriptions)

    async def take(self, shard: Shard) -> None:
        """Work a shard from now on."""
        subject = self._names.deliver(shard).encode()
        self._subscriptions[shard] = await self._connection.receive(subject, self._receiver, queue=QUEUE)

    async def drop(self, shard: Shard) -> None:
        """Stop working a shard; jobs that it has delivered are still run, or given back."""
        sid = self._subscriptions.pop(shard, None)
        if sid is not None:
            await self._connection.stop_receiving(sid)

    async def close(self) -> None:
        """Stop working all shards."""
        await asyncio.gather(*(self.drop(shard) for shard in list(self._subscriptions)))
