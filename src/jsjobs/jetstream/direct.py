"""What the server sends goes from the socket to the parser in one call, and what is posted goes to the socket in one.

nats-py reads through a stream and a task, and writes through a queue and another: for a job that is a few messages they
cost as much as its messages. The stream still makes the connection; then its place is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.errors import UnexpectedEOF

from jsjobs.jetstream.parser import WireParser


class DirectWire(asyncio.Protocol):
    """Stands in for the stream's protocol on a transport, once the first words with the server are over."""

    def __init__(self, parser: WireParser, writer: asyncio.StreamWriter, after: Callable[[], None]) -> None:
        """Reads and writes nothing yet.

        Args:
            parser: What comes goes there.
            writer: Of the stream.
            after: Called when something has come, and was parsed where it could be.
        """
        self._parser = parser
        self._after = after
        self._transport: Any = writer.transport
        # It goes on hearing of pauses and of the end: whoever drains or closes the stream waits for them there.
        self._stream: Any = self._transport.get_protocol()
        self._failure: Exception | None = None
        self._stir: asyncio.Future[None] | None = None
        self._is_over = False
        self.takes_more = True
        """Whether the socket keeps up; while it does not, what is posted has to wait."""

    def write(self, data: bytes) -> None:
        """Send at once what fits into the socket, the rest as it takes it."""
        self._transport.write(data)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Take the transport, and handle what cannot be handled in passing, until the connection breaks.

        Raises:
            Exception: What broke it.
        """
        early = bytes(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001 - what came behind the first words
        if reader.at_eof() and not early:
            raise UnexpectedEOF
        self._transport.set_protocol(self)
        if reader._paused:  # type: ignore[attr-defined]  # noqa: SLF001 - by more than it wanted to hold
            self._transport.resume_reading()
        try:
            self.data_received(early)
            aside = self._parser.aside
            while True:
                while aside:
                    await aside.popleft()()
                if self._failure is not None:
                    raise self._failure
                self._stir = asyncio.get_running_loop().create_future()
                await self._stir
        finally:
            self._is_over = True

    def data_received(self, data: bytes) -> None:
        """Parse."""
        if self._is_over or self._failure is not None:
            return
        try:
            self._parser.feed(data)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the connection is made anew
            self._fail(error)
        if self._parser.aside:
            self._wake()
        self._after()

    def eof_received(self) -> None:
        """The server says no more: nothing is to be said to it either, and the transport closes."""
        self._fail(UnexpectedEOF())
        self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(exc or UnexpectedEOF())
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket does not keep up."""
        self.takes_more = False
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self.takes_more = True
        self._stream.resume_writing()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._stir is not None and not self._stir.done():
            self._stir.set_result(None)
