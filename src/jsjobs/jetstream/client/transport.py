"""The transport that nats-py uses: only the handshake, in which it authenticates, passes through it.

What arrives after that goes straight to the parser. What nats-py writes after that (its pings) goes after what was
posted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import ParseResult

from nats.aio.transport import Transport, WebSocketTransport

from jsjobs.cancellation import end_if_cancelled
from jsjobs.jetstream.client.line import FrameLine, Line, LineOwner, TcpLine


class NoTls(OSError):  # noqa: N818 - it reads as what happened
    """The server offers no encryption although it was asked for."""

    def __init__(self) -> None:
        super().__init__("TLS is required here, but the connection is not encrypted: nothing was sent")


class Wire(Transport):
    """Make one connection after the other, and carry the handshake of each."""

    def __init__(self, owner: LineOwner) -> None:
        self._owner = owner
        self._line: Line | None = None
        self._cut: Line | None = None
        self._is_greeting = False
        self.needs_tls = False
        """Whether nothing may be sent without TLS: somebody in between could remove the server's offer of it."""
        self.aside: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        """Work for nats-py about what arrived, done one after the other."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Make a new connection; a failed attempt leaves no socket open."""
        end_if_cancelled()
        self.close()
        if uri.scheme == "ws":
            await self._frames().connect(uri, buffer_size, connect_timeout)
        else:
            async with asyncio.timeout(connect_timeout):
                _, self._line = await asyncio.get_running_loop().create_connection(
                    lambda: TcpLine(self._owner), str(uri.hostname), int(uri.port or 0)
                )
        self._is_greeting = True

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Encrypt the connection, or make one that is encrypted from the first byte on."""
        end_if_cancelled()
        if isinstance(uri, ParseResult):
            self.close()
            await self._frames(is_encrypted=True).connect_tls(uri, ssl_context, buffer_size, connect_timeout)
            self._is_greeting = True
        elif isinstance(self._line, TcpLine):
            async with asyncio.timeout(connect_timeout):
                await self._line.encrypt(ssl_context, uri)

    async def readline(self) -> bytes:
        """Return the next line of the handshake, which ends with a PONG."""
        line = self._open_line()
        text = await line.readline()
        if text.startswith(b"PONG"):
            self._is_greeting = False
            self._owner.on_stand(line)
        return text

    def write(self, payload: bytes) -> None:
        """Write at once during the handshake, afterwards behind what was posted."""
        if not self._is_greeting:
            self._owner.put(payload)
            return
        line = self._open_line()
        if self.needs_tls and not line.is_encrypted:
            raise NoTls
        line.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Write one after the other."""
        for each in payload:
            self.write(each)

    async def drain(self) -> None:
        """Wait until everything written in the handshake is on its way."""
        if self._is_greeting:
            end_if_cancelled()
            await self._open_line().drain()

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002
        """Have everything received parsed until the connection breaks; nothing is left to return.

        Raises:
            OSError: The error that broke it: nats-py's loop, which called this, then reconnects.
        """
        line = self._open_line()
        line.begin()
        try:
            while line.failure is None:
                while self.aside:
                    await self.aside.popleft()()
                await line.stirred()
            if line is not self._line:  # nats-py has closed it
                raise asyncio.CancelledError
            raise line.failure
        except (OSError, asyncio.CancelledError):
            raise
        except Exception as error:
            line.fail(error)
            raise ConnectionError(str(error).removeprefix("nats: ") or type(error).__name__) from error

    def do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have work done by the task that reads."""
        self.aside.append(work)
        if self._line is not None:
            self._line.stir()

    def close(self) -> None:
        """Abort the connection: a peer that hangs would never take what is still unsent."""
        self._is_greeting = False
        self.aside.clear()
        line, self._line = self._line, None
        if line is not None:
            self._cut = line
            line.fail(ConnectionAbortedError("the connection was cut"))

    async def wait_closed(self) -> None:
        """Wait until the aborted connection's socket is closed."""
        if self._cut is not None:
            await self._cut.lost()

    def at_eof(self) -> bool:
        """Return False: `read` reports what ended the connection."""
        return False

    def __bool__(self) -> bool:
        """Return True: nats-py makes its own transport only where there is none."""
        return True

    def _frames(self, *, is_encrypted: bool = False) -> WebSocketTransport:
        frames = WebSocketTransport()
        # Set before it is connected: a failed attempt has something to close too.
        self._line = FrameLine(self._owner, frames)
        self._line.is_encrypted = is_encrypted
        return frames

    def _open_line(self) -> Line:
        if self._line is None:
            raise ConnectionAbortedError("there is no connection")
        return self._line
