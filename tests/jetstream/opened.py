"""A connection for the length of a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jsjobs.jetstream.client.connection import Connection


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Connection]:
    connection = Connection()
    await connection.open(url)
    try:
        yield connection
    finally:
        await connection.close()
