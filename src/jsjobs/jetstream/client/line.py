"""One connection to a server: it holds incoming bytes during the handshake, then passes them straight to the parser.

nats-py reads through a stream and a task, and writes through a queue and another task. A job is only a few messages,
and that machinery costs as much as they do. Here incoming bytes are parsed in one call, and posted messages are written
in one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

from nats.aio.transport import Transport
from nats.errors import UnexpectedEOF

from jsjobs.jetstream.client.parser import ProtocolError, WireParser

_READ_SIZE = 128 * 1024  # bytes; takes a burst of frames in one call
_MAX_HELD = 1 << 20  # bytes to hold before somebody reads them
_LOST_WITHIN = 1.0  # seconds; an aborted socket is closed in the next turn of the event loop


class LineOwner(Protocol):
    """The owner of a connection."""

    parser: WireParser
    """The parser that gets everything received."""

    def on_stand(self, line: Line) -> None:
        """Handle the end of the handshake: from now on messages can be written."""

    def on_end(self, line: Line, error: Exception) -> None:
        """Handle the end of a connection, and the error that ended it."""

    def put(self, data: bytes) -> None:
        """Send nats-py's bytes after what was posted."""

    def send_soon(self) -> None:
        """Send what was posted, once the tasks that were just woken have run."""


class Line:
    """One connection: it holds incoming bytes until `begin`, then hands them to the parser."""

    def __init__(self, owner: LineOwner) -> None:
        self._owner = owner
        self._feed = owner.parser.feed
        self._held = b""
        self._is_begun = False
        self._stir: asyncio.Future[None] | None = None
        self.failure: Exception | None = None
        """The error that ended the connection."""
        self.takes_more = True
        """Whether the socket keeps up; while it does not, posted messages have to wait."""
        self.is_encrypted = False

    async def readline(self) -> bytes:
        """Return the next line of the handshake."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send at once what fits into the socket, and the rest as it takes it."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until everything written in the handshake is on its way."""

    async def finish(self) -> None:
        """Send the rest, then close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close without sending the rest."""
        raise NotImplementedError

    async def lost(self) -> None:
        """Wait until the aborted socket is closed."""
        raise NotImplementedError

    def begin(self) -> None:
        """Hand everything received to the parser, starting with what followed the handshake."""
        self._is_begun = True
        held, self._held = self._held, b""
        self.data_received(held)

    async def stirred(self) -> None:
        """Wait for `stir`, or for the end of the connection."""
        if self.failure is None:
            self._stir = asyncio.get_running_loop().create_future()
            await self._stir

    def stir(self) -> None:
        """Wake the task that waits in `stirred`."""
        if self._stir is not None and not self._stir.done():
            self._stir.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self.failure is not None:
            return
        if not self._is_begun:
            self._hold(data)
            return
        try:
            self._feed(data)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, a new connection is made
            self.fail(error)
        self._owner.send_soon()

    def fail(self, error: Exception) -> None:
        """End the connection with an error."""
        if self.failure is None:
            self.failure = error
            self.abort()
            self._owner.on_end(self, error)
            self.stir()

    def _hold(self, data: bytes) -> None:
        self._held += data
        self.stir()


class TcpLine(Line, asyncio.Protocol):
    """A TCP connection, with or without TLS."""

    def __init__(self, owner: LineOwner) -> None:
        super().__init__(owner)
        self._transport: Any = None
        self._is_held_back = False
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Take the socket."""
        self._transport = transport

    async def encrypt(self, context: ssl.SSLContext, hostname: str) -> None:
        """Switch to TLS; unencrypted bytes received before are discarded."""
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, self, context, server_hostname=hostname)
        except BaseException:
            self._end()  # asyncio reports no connection that ends in the TLS handshake
            raise
        if self.failure is not None:
            raise self.failure
        assert transport is not None
        self._transport, self._held, self.is_encrypted = transport, b"", True

    async def readline(self) -> bytes:
        """Return the next line of the handshake."""
        while (end := self._held.find(b"\n") + 1) == 0:
            if self.failure is not None:
                raise self.failure
            if self._is_held_back:
                raise ProtocolError
            await self.stirred()
        line, self._held = self._held[:end], self._held[end:]
        return line

    def begin(self) -> None:
        """Hand everything received to the parser, starting with what followed the handshake."""
        super().begin()
        if self._is_held_back and self.failure is None:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send at once what fits into the socket, and the rest as it takes it."""
        self._transport.write(data)

    async def finish(self) -> None:
        """Send the rest, then close."""
        self._transport.close()
        await asyncio.shield(self._lost)

    async def lost(self) -> None:
        """Wait until the aborted socket is closed."""
        await asyncio.wait({self._lost}, timeout=_LOST_WITHIN)

    def abort(self) -> None:
        """Close without sending the rest."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> None:
        """End the connection when the server stops sending: nothing more is to be sent to it either."""
        self.fail(UnexpectedEOF())

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection when its socket is closed."""
        self.fail(exc or UnexpectedEOF())
        self._end()

    def pause_writing(self) -> None:
        """Stop writing while the socket does not keep up."""
        self.takes_more = False

    def resume_writing(self) -> None:
        """Write again once the socket keeps up."""
        self.takes_more = True
        self._owner.send_soon()

    def _end(self) -> None:
        if not self._lost.done():
            self._lost.set_result(None)

    def _hold(self, data: bytes) -> None:
        super()._hold(data)
        if len(self._held) > _MAX_HELD and not self._is_held_back:
            self._is_held_back = True
            self._transport.pause_reading()


class FrameLine(Line):
    """A WebSocket connection, whose frames nats-py's own transport carries."""

    def __init__(self, owner: LineOwner, frames: Transport) -> None:
        super().__init__(owner)
        self._frames = frames
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def readline(self) -> bytes:
        """Return the next line of the handshake."""
        return await self._frames.readline()

    def write(self, data: bytes) -> None:
        """Send a frame."""
        self._frames.write(data)
        if self._is_begun and (self._sending is None or self._sending.done()):
            self._sending = self._aside(self._send())

    async def drain(self) -> None:
        """Send what is pending."""
        try:
            await self._frames.drain()  # type: ignore[no-untyped-call]
        except Exception as error:
            self.fail(error)
            raise

    def begin(self) -> None:
        """Read frames until the connection ends."""
        self._is_begun = True
        self._aside(self._read())
        self._sending = self._aside(self._send())

    async def finish(self) -> None:
        """Send the rest, then close."""
        await self.drain()
        await self._close()

    async def lost(self) -> None:
        """Wait until the aborted socket is closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Close without sending the rest."""
        self._aside(self._close())

    async def _send(self) -> None:
        with suppress(Exception):  # `drain` has reported it
            await self.drain()

    async def _read(self) -> None:
        try:
            while self.failure is None:
                if self._frames.at_eof():
                    raise UnexpectedEOF
                self.data_received(await self._frames.read(_READ_SIZE))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, a new connection is made
            self.fail(error)

    async def _close(self) -> None:
        with suppress(Exception):
            self._frames.close()  # type: ignore[no-untyped-call]
            await self._frames.wait_closed()  # type: ignore[no-untyped-call]

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
