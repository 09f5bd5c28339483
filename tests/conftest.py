"""Real servers, one of each for every test process; every test has a namespace of its own."""

import asyncio
import random
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import nats
import pytest
from hypothesis import settings
from nats.aio.client import Client

from forked import ForkServer
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate

settings.register_profile("jsjobs", deadline=None, max_examples=60)
settings.load_profile("jsjobs")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="What random tests draw from; printed at the end of each run.")


def pytest_configure(config: pytest.Config) -> None:
    # Before the processes of xdist start: they get the options as they are then.
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(10**6)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"random tests drew from --seed {config.option.seed}")
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, value in report.user_properties:
            if name == "told":  # what a test did that is another thing in each run
                terminalreporter.write_line(str(value))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What a random test draws from: another one in each run, or the one that was given."""
    return request.config.option.seed


# A shell starts what it puts into the background with SIGINT ignored, and so would be all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that tests share; one that is to be stopped or killed is a test's own."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def database_url(postgres: PostgresServer) -> str:
    """A migrated database that tests share, each in a namespace of its own."""
    asyncio.run(prepare(postgres.url))
    return postgres.url


async def prepare(url: str) -> None:
    async with Database(url) as database:
        await migrate(database)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings_of(nats_server: NatsServer, database_url: str, namespace: str) -> Callable[..., JobService.Config]:
    """Makes settings for this test's namespace: a short `ack_wait`, small queues, and whatever is given."""

    def make(**given: object) -> JobService.Config:
        values = {
            "nats_url": nats_server.url,
            "database_url": database_url,
            "namespace": namespace,
            "ack_wait": 2,
            "queue_bytes": 64 * 2**20,
            "lane_bytes": 64 * 2**20,
            "grace": 2,
            **given,
        }
        return JobService.Config(**values)

    return make


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of()


@pytest.fixture
async def deploy(nats_server: NatsServer) -> AsyncIterator[Callable[[JobService.Config], Awaitable[None]]]:
    """Applies the streams of some settings; they are deleted after the test."""
    async with OpenConnection(nats_server.url) as connection:
        namespaces = set()

        async def apply(config: JobService.Config) -> None:
            namespaces.add(config.namespace)
            await TopologyReconciler(connection, Names(config.namespace), config).apply()

        yield apply
        for namespace in namespaces:
            await remove_streams(connection, namespace)


class OpenConnection:
    """A connection of the library's own kind, for the length of a block."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = Connection()

    async def __aenter__(self) -> Connection:
        await self.connection.open(self.url)
        return self.connection

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()


async def remove_streams(connection: Connection, namespace: str) -> None:
    for name in (await call(connection, "STREAM.NAMES"))["streams"] or []:
        if name.startswith((f"{namespace.upper()}_", f"KV_{namespace}")):
            await find(connection, f"STREAM.DELETE.{name}")


@pytest.fixture
async def jobs(config: JobService.Config, deploy: Callable[..., Awaitable[None]]) -> AsyncIterator[JobService]:
    """A connected service whose streams exist."""
    await deploy(config)
    async with JobService(config) as service:
        yield service


@pytest.fixture
async def plain(nats_server: NatsServer) -> AsyncIterator[Client]:
    """Plain nats-py: what any other service has."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with OpenConnection(nats_server.url) as connection:
        yield connection


@pytest.fixture
async def service(settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]) -> Callable:
    """Makes connected services of this test's namespace."""
    await deploy(settings_of())

    @asynccontextmanager
    async def make(**given: object) -> AsyncIterator[JobService]:
        async with JobService(settings_of(**given)) as made:
            yield made

    return make
