import asyncio
from importlib import resources
from uuid import uuid4

import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.errors import DatabaseRefused, SchemaTooNew
from jsjobs.postgres.migrate import migrate, pending

ALL = sorted(file.name.removesuffix(".sql") for file in (resources.files("jsjobs.postgres") / "migrations").iterdir())


async def test_applies_what_is_missing_once(empty_url: str) -> None:
    async with Database(empty_url) as database:
        assert await pending(database) == ALL
        assert await migrate(database) == ALL
        assert await pending(database) == []
        assert await migrate(database) == []
        async with database.connection() as connection:
            rows = await connection.fetch("select version, name, applied_at from jsjobs_migrations order by version")
        assert [(row["version"], row["name"]) for row in rows] == [(int(name[:4]), name) for name in ALL]
        assert all(row["applied_at"] for row in rows)


async def test_ten_at_once_apply_each_migration_once(empty_url: str) -> None:
    databases = [Database(empty_url) for _ in range(10)]
    done = await asyncio.gather(*(migrate(database) for database in databases))
    assert sorted(name for names in done for name in names) == ALL
    await asyncio.gather(*(database.close() for database in databases))


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    async with Database(empty_url) as database:
        async with database.connection() as connection:
            await connection.execute("create table job_dlq (id int)")
        with pytest.raises(DatabaseRefused, match='"job_dlq" already exists'):
            await migrate(database)
        assert await pending(database) == ALL
        async with database.connection() as connection:
            await connection.execute("drop table job_dlq")
        assert await migrate(database) == ALL


async def test_a_newer_database_is_refused(empty_url: str) -> None:
    async with Database(empty_url) as database:
        await migrate(database)
        async with database.connection() as connection:
            await connection.execute("insert into jsjobs_migrations (version, name) values (9999, 'later')")
        for operation in (migrate, pending):
            with pytest.raises(
                SchemaTooNew, match=r"at migration 9999, this jsjobs knows up to [0-9]{1,4}: update jsjobs"
            ):
                await operation(database)


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    name = f"latin_{uuid4().hex}"
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(
            f"create database {name} encoding 'LATIN1' locale_provider libc locale 'C' template template0"
        )
    async with Database(postgres.url.replace("/jsjobs?", f"/{name}?")) as database:
        with pytest.raises(DatabaseRefused, match="encoding UTF8"):
            await migrate(database)


async def test_needs_no_rights_where_nothing_is_missing(empty_url: str) -> None:
    role = f"reader_{uuid4().hex}"
    async with Database(empty_url) as database:
        await migrate(database)
        async with database.connection() as connection:
            await connection.execute(f"create role {role} login; grant select on jsjobs_migrations to {role}")
    async with Database(empty_url.replace("postgres@", f"{role}@")) as database:
        assert await migrate(database) == []
