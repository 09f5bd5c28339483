"""The way between the socket and the parser, where it is unusual: what comes early, in frames, or too slowly taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from facts import eventually
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.line import FrameLine
from jsjobs.model.errors import JobError

INFO = b'INFO {"version":"2.15.1","headers":true,"max_payload":1048576}\r\n'


@asynccontextmanager
async def server_that(after_connect: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Greets, says what it is told to in the packet that ends the greeting, and reads no more until it may."""
    may_read, has_ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n" + after_connect)
        await may_read.wait()
        while await reader.read(2**20):
            pass
        writer.close()
        await writer.wait_closed()
        has_ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", may_read
    may_read.set()
    await has_ended.wait()  # with the connection, which the test has closed
    server.close()


async def test_what_comes_right_behind_the_greeting_is_not_lost() -> None:
    connection, taken = Connection(), list[bytes]()
    connection.client.parser.receivers[b"7"] = lambda _subject, _reply, _header, data: taken.append(data)
    async with server_that(b"MSG early 7 5\r\nfirst\r\nMSG early 7 6\r\nsec") as (url, _):
        await connection.open(url)
        await eventually(lambda: taken == [b"first"])
        await connection.close()


async def test_a_slow_server_takes_all_in_the_end_and_in_order() -> None:
    """More is posted than the socket takes: it waits, nothing is dropped and the order stays."""
    connection = Connection()
    async with server_that(b"") as (url, may_read):
        await connection.open(url)
        line = connection.client._line
        for number in range(300):
            connection.post(b"bulk", b"%d" % number * 10_000)
            await asyncio.sleep(0)
        await eventually(lambda: not line.takes_more)
        connection.post(b"bulk", b"waits")
        await asyncio.sleep(0)
        assert connection.client._pending
        may_read.set()
        await eventually(lambda: line.takes_more and not connection.client._pending)
        await connection.close()


class Frames:
    """A transport that brings whole frames and takes them, as a WebSocket does."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[bytes] = asyncio.Queue()
        self.waiting: list[bytes] = []
        self.sent: list[bytes] = []
        self.is_closed = False

    def at_eof(self) -> bool:
        return self.is_closed

    async def read(self, _size: int) -> bytes:
        frame = await self.coming.get()
        self.is_closed = not frame
        return frame

    async def readline(self) -> bytes:
        return await self.coming.get()

    def write(self, data: bytes) -> None:
        self.waiting.append(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)
        while self.waiting:
            self.sent.append(self.waiting.pop(0))

    def close(self) -> None:
        self.is_closed = True

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)


async def test_frames_are_read_to_their_end_and_what_is_posted_is_sent_in_frames() -> None:
    connection, taken, frames = Connection(), list[bytes](), Frames()
    client = connection.client
    connection.listen(b"a", lambda _subject, _reply, _header, data: taken.append(data))
    wire = client._wire
    wire._line, wire._is_greeting = FrameLine(client, frames), True  # type: ignore[arg-type]
    for frame in (INFO, b"PONG\r\n", b"MSG a 1 1\r\nx\r\n+OK\r\nMSG a 1 1", b"\r\ny\r\n"):
        frames.coming.put_nowait(frame)
    assert await wire.readline() == INFO
    wire.write(b"CONNECT {}\r\n")
    await wire.drain()
    assert frames.sent == [b"CONNECT {}\r\n"]
    assert await wire.readline() == b"PONG\r\n"
    connection.post(b"b", b"z")
    reading = asyncio.ensure_future(wire.read(0))
    await eventually(lambda: taken == [b"x", b"y"])
    await eventually(lambda: frames.sent[1:] == [b"SUB a  1\r\nPUB b  1\r\nz\r\n"])
    connection.post(b"b", b"z")
    await eventually(lambda: frames.sent[2:] == [b"PUB b  1\r\nz\r\n"])
    assert not reading.done()
    frames.coming.put_nowait(b"")
    with pytest.raises(ConnectionError, match="unexpected EOF"):
        await reading
    assert not connection.is_connected


async def test_servers_of_a_cluster_become_known() -> None:
    connection = Connection()
    async with server_that(b'INFO {"connect_urls":["127.0.0.1:1","127.0.0.1:2"]}\r\n') as (url, _):
        await connection.open(url)
        await eventually(lambda: connection.client.server_count == 3)
        await connection.close()


@pytest.mark.parametrize("greeting", [b"x" * 2**21, b"INFO {}\r\n" + b"x" * 2**21], ids=["at once", "behind INFO"])
async def test_an_endless_greeting_fills_no_memory(greeting: bytes) -> None:
    held = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        held.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        connection = Connection()
        with pytest.raises(JobError, match="does not speak the NATS protocol"):
            await connection.open(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=10)
        for writer in held:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
