"""Each test has a namespace of its own in the one migrated database of its process."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters
from secured_database import secured_database

__all__ = ["secured_database"]


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
