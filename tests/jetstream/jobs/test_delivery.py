"""How old a delivery is: its worker may be too careful, and never thinks it younger than the server does."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.model.job import Priority
from tcp_proxy import TcpProxy


async def test_a_renewed_delivery_is_as_old_as_the_request(
    far: Connection, proxy: TcpProxy, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    """The server counts from when it hears of the renewal, which is before its answer is here."""
    came = asyncio.Queue[Delivery]()

    def take(*message: bytes) -> None:
        delivery = read_delivery(far, *message)
        assert delivery is not None
        came.put_nowait(delivery)

    (shard,) = await live_shards(far, names, (Priority.LOW,))
    await far.receive(names.deliver(shard).encode(), take, queue="workers")
    await submit("t", 1, priority="low", entity="e")
    async with asyncio.timeout(20):
        delivery = await came.get()
    proxy.delay = 0.2
    asked_at = time.monotonic()
    await delivery.renew(10)
    took = time.monotonic() - asked_at
    assert took >= 2 * proxy.delay
    assert delivery.age() >= took - 0.05
