"""With `sslmode=verify-full` a database that is not the right one is told nothing, no password above all."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from credentials import Certificates

from jsjobs.postgres.database import Database
from jsjobs.postgres.errors import DatabaseUnavailable

SECRET = "the-s3cret"
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
ASK_FOR_PASSWORD = b"R" + (8).to_bytes(4) + (3).to_bytes(4)


@asynccontextmanager
async def impostor(context: ssl.SSLContext | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Something that speaks like Postgres: where it listens, and what it hears. Without a context it offers no TLS."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readexactly(8) == SSL_REQUEST
            writer.write(b"N" if context is None else b"S")
            if context is not None:
                await writer.start_tls(context)
            heard.append(await reader.read(4096))
            writer.write(ASK_FOR_PASSWORD)
            heard.append(await reader.read(4096))
        except (OSError, EOFError):
            pass  # whoever asked has gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize("offers", ["no TLS", "a certificate of another authority", "a certificate of another host"])
async def test_an_impostor_hears_no_password(tmp_path: Path, offers: str) -> None:
    made = Certificates(tmp_path)
    context = None
    if offers != "no TLS":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*(made.unknown if "authority" in offers else made.elsewhere))
    async with impostor(context) as (port, heard):
        url = f"postgresql://jsjobs:{SECRET}@127.0.0.1:{port}/jsjobs"
        for query, is_told in (("", True), (f"?sslmode=verify-full&sslrootcert={made.ca}", False)):
            heard.clear()
            with pytest.raises(DatabaseUnavailable) as refused:
                async with Database(url + query, command_timeout=2) as database, database.connection():
                    pytest.fail("that is no database")
            assert SECRET not in str(refused.value)
            assert (SECRET.encode() in b"".join(heard)) is is_told
