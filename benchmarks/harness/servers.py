"""Servers for the measurements: fresh ones each time, on loopback, gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil

from harness import guard
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.embedded.processes import Child

REDIS = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--bind", "127.0.0.1"]
_DATABASE = "bench"


@dataclass(frozen=True)
class Running:
    """A server, and a folder for a measurement on it."""

    url: str
    home: Path
    pid: int
    data: Path

    def memory(self) -> int:
        """Bytes of memory that it has now; of Postgres one process of several."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def disk(self) -> int:
        """Bytes that its files take."""
        total = 0
        for file in self.data.rglob("*"):
            with contextlib.suppress(OSError):
                total += file.stat().st_blocks * 512
        return total


class Servers:
    """Starts servers in a folder of its own; a context manager. Postgres, which is slow to make, stays until its end."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Short, since it holds sockets, whose paths are limited.
            self._root = Path(tempfile.mkdtemp(prefix="bench-"))
            stack.callback(guard.remove, self._root)
            self._guard = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("guard.py")), str(self._root)],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(self._guard.communicate)
            self._postgres: PostgresServer | None = None
            self.postgres_version = ""
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def fresh(self, broker: str) -> Iterator[Running]:
        """A server with nothing in it."""
        home = Path(tempfile.mkdtemp(dir=self._root))
        start = {"nats": self._nats, "redis": self._redis, "postgres": self._database}[broker]
        try:
            with start(home) as running:
                yield running
        finally:
            shutil.rmtree(home, ignore_errors=True)

    @contextmanager
    def _nats(self, home: Path) -> Iterator[Running]:
        with NatsServer(home / "nats") as server, self._watched(server.pid) as pid:
            yield Running(server.url, home, pid, server.home / "jetstream")

    @contextmanager
    def _redis(self, home: Path) -> Iterator[Running]:
        port = _free_port()
        server = Child(["redis-server", "--port", str(port), "--dir", str(home), *REDIS], log=home / "log", cwd=home)
        try:
            server.wait_for(lambda: _answers(port))
            with self._watched(server.pid) as pid:
                yield Running(f"redis://127.0.0.1:{port}/0", home, pid, home / "appendonlydir")
        finally:
            server.stop(signal.SIGTERM)

    @contextmanager
    def _database(self, home: Path) -> Iterator[Running]:
        if self._postgres is None:
            server = PostgresServer(self._root / "postgres")
            self._stack.callback(server.remove)
            server.start()
            self._stack.enter_context(self._watched(server.pid))
            self._postgres = server
        server = self._postgres
        self.postgres_version = asyncio.run(_new_database(server.url))
        assert server.pid is not None
        data = Path(psutil.Process(server.pid).cwd())
        yield Running(server.url.replace("/jsjobs?", f"/{_DATABASE}?"), home, server.pid, data)

    @contextmanager
    def _watched(self, pid: int | None) -> Iterator[int]:
        assert pid is not None
        self._tell(f"+ {pid}")
        yield pid
        self._tell(f"- {pid}")

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(line + "\n")
        self._guard.stdin.flush()


@contextmanager
def stoppable() -> Iterator[None]:
    """A SIGTERM ends this process in good order, so that its servers and processes end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    yield


def missing(broker: str) -> str:
    """Why there is no such server; empty if there is."""
    if broker == "redis" and shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: apt-get install redis-server)"
    return ""


def redis_version() -> str:
    """As the server says it."""
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("v=")[1].split()[0]


async def _new_database(url: str) -> str:
    connection: Any = await asyncpg.connect(url)
    await connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {_DATABASE}")
    found = await connection.fetchval("SHOW server_version")
    await connection.close()
    return str(found).split()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n" or None
    except OSError:
        return None
