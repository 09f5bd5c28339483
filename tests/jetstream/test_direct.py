"""The way between the socket and the parser, where it is unusual: what comes early, in frames, or too slowly taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.errors import UnexpectedEOF

from facts import eventually
from jsjobs.jetstream.connection import Connection

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
    connection._parser.receivers[b"7"] = lambda _subject, _reply, _header, data: taken.append(data)
    async with server_that(b"MSG early 7 5\r\nfirst\r\nMSG early 7 6\r\nsec") as (url, _):
        await connection.open(url)
        await eventually(lambda: taken == [b"first"])
        await connection.close()


async def test_a_slow_server_takes_all_in_the_end_and_in_order() -> None:
    """More is posted than the socket takes: it waits, nothing is dropped and the order stays."""
    connection = Connection()
    async with server_that(b"") as (url, may_read):
        await connection.open(url)
        wire = connection._wire
        assert wire is not None
        for number in range(300):
            connection.post(b"bulk", b"%d" % number * 10_000)
            await asyncio.sleep(0)
        await eventually(lambda: not wire.takes_more)
        connection.post(b"bulk", b"waits")
        await asyncio.sleep(0)
        assert connection._pending
        may_read.set()
        await eventually(lambda: wire.takes_more and not connection._pending)
        await connection.close()


class Frames:
    """A transport that brings whole frames, as a WebSocket does."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)

    def at_eof(self) -> bool:
        return not self.frames

    async def read(self, _size: int) -> bytes:
        return self.frames.pop(0)


async def test_frames_are_read_to_their_end() -> None:
    connection, taken = Connection(), list[bytes]()
    connection._parser.receivers[b"7"] = lambda _subject, _reply, _header, data: taken.append(data)
    with pytest.raises(UnexpectedEOF):
        await connection._read_frames(Frames(b"MSG a 7 1\r\nx\r\n+OK\r\nMSG a 7 1", b"\r\ny\r\n"))  # type: ignore[arg-type]
    assert taken == [b"x", b"y"]
