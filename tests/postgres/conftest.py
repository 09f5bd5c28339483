"""A real Postgres for each test process; each test has a namespace of its own in one migrated database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.migrate import migrate


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(Path(tmp_path_factory.mktemp("postgres")))
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def database_url(postgres: PostgresServer) -> str:
    async def prepare() -> None:
        async with Database(postgres.url) as database:
            await migrate(database)

    asyncio.run(prepare())
    return postgres.url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return DeadLetters(database, f"test-{uuid4()}")


@pytest.fixture
async def empty_url(postgres: PostgresServer) -> str:
    """The URL of a database without any tables."""
    name = f"empty_{uuid4().hex}"
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"create database {name}")
    return postgres.url.replace("/jsjobs?", f"/{name}?")
