"""Subscriptions that begin and end without a wait, as a worker's at its bound do, on a real server."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection

Message = tuple[bytes, bytes, bytes, bytes]


async def test_what_begins_while_the_connection_is_made_anew_stands_after_it_once(
    connection: Connection, plain: Client, namespace: str
) -> None:
    got: list[bytes] = []
    sids = []

    def listen(at: str) -> None:
        sids.append(connection.listen(f"{namespace}.{at}".encode(), lambda *message: got.append(message[3]), queue="q"))

    nats = connection.client._nats
    write = nats._process_connect_init

    async def noted() -> None:
        listen("before")
        await write()
        listen("after")

    nats._process_connect_init = noted
    connection.client._line.fail(OSError("broken"))
    listen("broken")
    await eventually(lambda: connection.is_connected and len(sids) == 3)
    listen("connected")
    await connection.flush()
    for at in ("broken", "before", "after", "connected"):
        await plain.publish(f"{namespace}.{at}", at.encode())
    await plain.flush()
    await eventually(lambda: len(got) >= 4)
    await connection.flush()
    assert sorted(got) == [b"after", b"before", b"broken", b"connected"]

    for sid in sids:
        connection.listen_no_more(sid)
    connection.client._line.fail(OSError("broken again"))
    await eventually(lambda: connection.is_connected)
    await connection.flush()
    await plain.publish(f"{namespace}.connected", b"to nobody")
    await plain.flush()
    await connection.flush()
    assert len(got) == 4


async def test_a_subscription_that_is_sent_twice_is_one(connection: Connection, plain: Client, namespace: str) -> None:
    got: list[bytes] = []
    sid = connection.listen(namespace.encode(), lambda *message: got.append(message[3]), queue="q")
    connection.client._send(b"SUB %b q %d\r\n" % (namespace.encode(), sid))
    await connection.flush()
    for number in range(3):
        await plain.publish(namespace, b"%d" % number)
    await plain.flush()
    await eventually(lambda: len(got) >= 3)
    await connection.flush()
    assert got == [b"0", b"1", b"2"]


async def test_nothing_is_lost_where_a_subscription_ends_with_its_one_delivery_in_hand(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]], connection: Connection
) -> None:
    """The server has nothing to send then. At another moment it loses what it sends, for a whole `ack_wait`."""
    config = settings_of(ack_wait=60)
    await deploy(config)
    subject = f"{config.namespace}.deliver.low.1x1.0".encode()
    got: asyncio.Queue[Message] = asyncio.Queue()
    async with JobService(config) as jobs:
        await jobs.submit("t", [0] * 300, priority="low", entity="e")
        begin = time.monotonic()
        for number in range(600):
            sid = connection.listen(subject, lambda *message: got.put_nowait(message), queue="workers")
            _, reply, _, _ = await asyncio.wait_for(got.get(), 20)
            connection.listen_no_more(sid)
            connection.post(reply, b"+ACK" if number % 2 else b"-NAK")
        assert time.monotonic() - begin < 20
        assert got.empty()
