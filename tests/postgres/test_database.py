import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseRefused, DatabaseUnavailable, SchemaMissing
from jsjobs.postgres.migrate import migrate, pending


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """One that a test may stop."""
    server = PostgresServer(tmp_path)
    server.start()
    yield server
    server.remove()


async def test_outlives_outages_of_the_server(own_postgres: PostgresServer) -> None:
    async with Database(own_postgres.url) as database:
        letters = DeadLetters(database, "jobs")
        await migrate(database)
        await asyncio.gather(*(letters.list() for _ in range(8)))
        for down in (own_postgres.stop, own_postgres.kill):
            await asyncio.to_thread(down)
            for operation in (letters.list, lambda: letters.get(uuid4()), lambda: migrate(database)):
                with pytest.raises(DatabaseUnavailable, match="5432/jsjobs is not available: ") as caught:
                    await operation()
                assert "\n" not in str(caught.value)
            await asyncio.to_thread(own_postgres.start)
            # None of the eight connections that were open before is in the way.
            await asyncio.gather(*(letters.list() for _ in range(16)))


async def test_starts_while_the_server_is_down(own_postgres: PostgresServer) -> None:
    await asyncio.to_thread(own_postgres.stop)
    async with Database(own_postgres.url) as database:
        with pytest.raises(DatabaseUnavailable):
            await pending(database)
        await asyncio.to_thread(own_postgres.start)
        assert await pending(database)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@127.0.0.1:1/db",
        "postgresql://user:hunter2@localhost:1/db",
        "postgresql://user:hunter2@no-such-host.invalid/db",
        "postgresql://user:hunter2@/db?host=/nonexistent",
    ],
)
async def test_an_unreachable_server_is_unavailable(url: str) -> None:
    async with Database(url) as database:
        with pytest.raises(DatabaseUnavailable) as caught:
            await pending(database)
        assert database.place in str(caught.value)
        assert "hunter2" not in str(caught.value)


async def test_a_server_that_hangs_up_is_unavailable() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with server, Database(f"postgresql://127.0.0.1:{port}/db") as database:
        with pytest.raises(DatabaseUnavailable):
            await pending(database)


@pytest.mark.parametrize("condition", ["cannot_connect_now", "admin_shutdown", "too_many_connections", "disk_full"])
async def test_what_passes_by_itself_is_unavailable(database: Database, condition: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=condition):
        async with database.connection() as connection:
            await connection.execute(f"do $$ begin raise {condition}; end $$")


async def test_a_database_that_does_not_exist_yet_is_unavailable(database_url: str) -> None:
    async with Database(database_url.replace("/jsjobs?", "/missing?")) as database:
        with pytest.raises(DatabaseUnavailable, match='database "missing" does not exist'):
            await pending(database)


async def test_a_statement_without_an_answer_is_unavailable(database_url: str) -> None:
    async with Database(database_url, command_timeout=0.2) as database:
        with pytest.raises(DatabaseUnavailable, match="not answer in time"):
            async with database.connection() as connection:
                await connection.execute("select pg_sleep(30)")
        assert await pending(database) == []


async def test_a_killed_connection_is_unavailable_once(database: Database) -> None:
    async def kill_itself() -> None:
        async with database.connection() as victim, database.connection() as other:
            await other.execute("select pg_terminate_backend($1)", victim.get_server_pid())
            await victim.execute("select 1")

    with pytest.raises(DatabaseUnavailable):
        await kill_itself()
    assert await pending(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "do $$ begin raise cannot_connect_now; end $$",
        "do $$ begin raise read_only_sql_transaction; end $$",
        "select pg_sleep(30)",  # unanswered, as on a half-open connection
    ],
)
async def test_a_connection_on_which_postgres_was_away_is_lent_to_nobody_again(
    database_url: str, statement: str
) -> None:
    """It may be half open, or lead to a server that is now a standby."""
    async with Database(database_url, command_timeout=0.3) as database:
        lent = []
        for run in ("select 1", statement, "select 1"):
            with suppress(DatabaseUnavailable):
                async with database.connection() as connection:
                    lent.append(connection.get_server_pid())
                    await connection.execute(run)
    first, broken, after = lent
    assert first == broken, "one connection is lent again and again"
    assert after != broken


async def test_cancelled_callers_leave_the_connections_usable(database: Database) -> None:
    async def sleep() -> None:
        async with database.connection() as connection:
            await connection.execute("select pg_sleep(30)")

    tasks = [asyncio.create_task(sleep()) for _ in range(12)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.gather(*tasks)
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True))
    assert await asyncio.gather(*(pending(database) for _ in range(8))) == [[]] * 8


async def test_a_refusal_is_told_in_one_line(database: Database) -> None:
    with pytest.raises(DatabaseRefused, match="5432/jsjobs refused: division by zero") as caught:
        async with database.connection() as connection:
            await connection.fetchval("select 1 / 0")
    assert "\n" not in str(caught.value)


async def test_missing_tables_say_what_to_run(empty_url: str) -> None:
    async with Database(empty_url) as database:
        with pytest.raises(SchemaMissing, match="run `jsjobs db migrate`"):
            await DeadLetters(database, "jobs").list()


async def test_more_callers_than_connections_take_turns(database: Database) -> None:
    letters = DeadLetters(database, "jobs")
    assert await asyncio.gather(*(letters.get(uuid4()) for _ in range(50))) == [None] * 50


async def test_a_closed_database_opens_again_only_when_asked(database_url: str) -> None:
    database = Database(database_url)
    assert await pending(database) == []  # opens by itself
    await database.close()
    await database.close()
    with pytest.raises(DatabaseUnavailable, match="closed by this program"):
        await pending(database)
    await database.connect()
    assert await pending(database) == []
    await database.close()
