"""Servers and worker processes that a test may kill."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from app_processes import Apps

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Callable[[JobService.Config], Apps]]:
    """Makes sets of processes; what still runs of them after the test is killed."""
    with ExitStack() as made:

        def make(config: JobService.Config) -> Apps:
            apps = Apps(config, tmp_path)
            made.callback(apps.close)
            return apps

        yield make


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def over(server: NatsServer) -> AsyncIterator[Connection]:
    """A connection to it."""
    async with connected(JobService.Config(nats_url=server.url)) as connection:
        yield connection
