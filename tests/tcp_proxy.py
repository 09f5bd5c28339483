"""A TCP proxy on loopback that loses what a test wants lost."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class TcpProxy:
    """Stands between a client and a server; `url` is where the client connects to."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut_at: tuple[str, Callable[[bytes], bool]] | None = None
        self.deaf = False
        """While true, new connections are refused."""
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.swallows: set[str] = set()
        """`request`, `answer`: what is read and never passed on, as by a half-open connection. What follows it would
        make no sense: `cut` before this is taken back."""
        self.lost: list[bytes] = []
        """What was dropped when a connection was cut."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self._pipes) // 2

    def cut_before_answer(self, is_it: Callable[[bytes], bool]) -> None:
        """Drop the first bytes from the server for which this is true, and cut the connections: the answer is lost."""
        self._cut_at = ("answer", is_it)

    def cut_before_request(self, is_it: Callable[[bytes], bool]) -> None:
        """Drop the first bytes from the client for which this is true, and cut the connections: the request is lost."""
        self._cut_at = ("request", is_it)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_server}
        for what, source, sink in (("request", reader, to_server), ("answer", from_server, writer)):
            pipe = asyncio.get_running_loop().create_task(self._pipe(what, source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, what: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self._cut_at is not None and self._cut_at[0] == what and self._cut_at[1](data):
                    self._cut_at = None
                    self.lost.append(data)
                    self.cut()
                    return
                if what in self.swallows:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(data)
                await sink.drain()
        sink.close()
