from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from jsjobs.embedded.home import LocalServers
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
def postgres_at() -> Iterator[Callable[[Path], PostgresServer]]:
    """Makes servers, and deletes their data afterwards, also those outside the test's folder."""
    with ExitStack() as made:

        def make(home: Path) -> PostgresServer:
            server = PostgresServer(home)
            made.callback(server.remove)
            return server

        yield make


@pytest.fixture
def postgres_server(tmp_path: Path, postgres_at: Callable[[Path], PostgresServer]) -> PostgresServer:
    server = postgres_at(tmp_path)
    server.start()
    return server


@pytest.fixture
def local_servers(tmp_path: Path) -> Iterator[LocalServers]:
    servers = LocalServers(tmp_path)
    yield servers
    servers.remove()
