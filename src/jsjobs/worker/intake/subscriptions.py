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
        self.resting: set[Shard] = set()
        """The shards that are worked, but not listened to while this worker has no room for their next job."""

    @property
    def taken(self) -> set[Shard]:
        """Return the shards that this worker works."""
        return {*self._subscriptions, *self.resting}

    async def take(self, shard: Shard) -> None:
        """Work a shard from now on."""
        subject = self._names.deliver(shard).encode()
        self._subscriptions[shard] = await self._connection.receive(subject, self._receiver, queue=QUEUE)

    def rest(self, shard: Shard) -> None:
        """Let other workers have a shard's jobs, until `listen_again`.

        Call it while this worker holds the shard's one delivery, unanswered: the server has nothing else to send then,
        and what it sends to a subscription that just ends is lost until `ack_wait` is over.
        """
        sid = self._subscriptions.pop(shard, None)
        if sid is not None:
            self._connection.listen_no_more(sid)
            self._connection.forget(sid)
            self.resting.add(shard)

    def listen_again(self) -> None:
        """Take the jobs of all shards again: there is room."""
        for shard in self.resting:
            subject = self._names.deliver(shard).encode()
            self._subscriptions[shard] = self._connection.listen(subject, self._receiver, queue=QUEUE)
        self.resting.clear()

    async def drop(self, shard: Shard) -> None:
        """Stop working a shard; jobs that it has delivered are still run, or given back."""
        self.resting.discard(shard)
        sid = self._subscriptions.pop(shard, None)
        if sid is not None:
            await self._connection.stop_receiving(sid)

    async def close(self) -> None:
        """Stop working all shards."""
        await asyncio.gather(*(self.drop(shard) for shard in self.taken))
