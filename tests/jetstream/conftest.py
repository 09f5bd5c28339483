from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from opened import opened

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.pause import Pausing
from jsjobs.settings import Config
from tcp_proxy import TcpProxy


@pytest.fixture
def settings_of(nats_server: NatsServer, namespace: str) -> Callable[..., Config]:
    """As everywhere, but without a database: nothing here asks for one."""

    def make(**given: object) -> Config:
        values = {
            "nats_url": nats_server.url,
            "namespace": namespace,
            "ack_wait": 2,
            "queue_bytes": 64 * 2**20,
            "lane_bytes": 64 * 2**20,
        }
        return Config(**{**values, **given})

    return make


@pytest.fixture
async def names(config: Config, deploy: Callable[[Config], Awaitable[None]]) -> Names:
    """The names of a namespace whose streams exist."""
    await deploy(config)
    return Names(config.namespace)


@pytest.fixture
def state(connection: Connection, names: Names) -> StateStore:
    return StateStore(connection, names)


@pytest.fixture
def queue(connection: Connection, names: Names) -> JobQueue:
    return JobQueue(connection, names)


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(nats_server.url) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: TcpProxy) -> AsyncIterator[Connection]:
    """A connection through the proxy."""
    async with opened(proxy.url) as connection:
        yield connection


@pytest.fixture
def pausing(connection: Connection, names: Names) -> Pausing:
    return Pausing(connection, names)


@pytest.fixture
async def submit(config: Config, names: Names) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Submits jobs, as a service does."""
    async with JobService(config) as service:
        yield service.submit
