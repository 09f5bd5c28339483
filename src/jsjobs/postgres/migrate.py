"""Migrate the database's tables to the version that this code needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from jsjobs.postgres.errors import DatabaseRefused, SchemaTooNew
from jsjobs.postgres.locks import Connection, Wanted

if TYPE_CHECKING:
    from jsjobs.postgres.database import Database

_ALONE = Wanted(alone=True)
# One process migrates at a time. This is not an advisory lock, which anybody in the database could take: this one only
# the tables' owner can take.
_LOCK = "lock table jsjobs_migrations in share row exclusive mode"
# A session that reads for longer is named in the error: all others would queue behind a migration that waits.
_WAIT_FOR_READERS = "set local lock_timeout = '3s'"
_WAIT_FOR_MIGRATION = "set local lock_timeout = '60s'"
# Seconds for building an index on a large table, or for waiting while another process does.
_TIMEOUT = 600.0

_RECORD = "insert into jsjobs_migrations (version, name) values ($1, $2)"
_CREATE_HISTORY = """
create table if not exists jsjobs_migrations (
    version int primary key,
    name text not null,
    applied_at timestamptz not null default now()
)
"""


@dataclass(frozen=True, slots=True)
class _Migration:
    version: int
    name: str
    sql: str


async def migrate(database: Database) -> list[str]:
    """Apply the missing migrations, each in its own transaction; any number of processes may call this at once.

    Returns:
        The names of the migrations that this call applied.

    Raises:
        SchemaTooNew: A newer jsjobs has migrated this database.
        DatabaseRefused: The database is not in UTF-8, or the user may not create tables.
        TablesLocked: Another session's transaction uses the tables for longer than 3 s; the error names its user.
        DatabaseUnavailable: Postgres is unavailable; migrations already applied stay applied.
    """
    # Where there is nothing to do, no right to create anything is needed.
    if not await pending(database):
        return []
    await _prepare(database)
    return [migration.name for migration in _migrations() if await _apply(database, migration)]


async def pending(database: Database) -> list[str]:
    """Return the names of the migrations that the database still lacks.

    Raises:
        SchemaTooNew: A newer jsjobs has migrated this database.
        TablesLocked: Another session's transaction uses the tables for longer than 3 s; the error names its user.
        DatabaseUnavailable: Postgres is unavailable.
    """
    async with database.connection(_ALONE) as connection, connection.transaction():
        await connection.execute(_WAIT_FOR_READERS)
        if await connection.fetchval("select to_regclass('jsjobs_migrations')") is None:
            return [migration.name for migration in _migrations()]
        applied = await _applied(database, connection)
    return [migration.name for migration in _migrations() if migration.version not in applied]


async def _prepare(database: Database) -> None:
    async with database.connection() as connection:
        if await connection.fetchval("show server_encoding") != "UTF8":
            raise DatabaseRefused(f"the database {database.place} must be created with encoding UTF8")
        # Another process created it at the same moment.
        with suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
            await connection.execute(_CREATE_HISTORY)


async def _apply(database: Database, migration: _Migration) -> bool:
    async with database.connection(_ALONE) as connection, connection.transaction():
        await connection.execute(_WAIT_FOR_MIGRATION)
        await connection.execute(_LOCK, timeout=_TIMEOUT)
        if migration.version in await _applied(database, connection):
            return False
        await connection.execute(_WAIT_FOR_READERS)
        await connection.execute(migration.sql, timeout=_TIMEOUT)
        await connection.execute(_RECORD, migration.version, migration.name)
    return True


async def _applied(database: Database, connection: Connection) -> set[int]:
    versions = {row["version"] for row in await connection.fetch("select version from jsjobs_migrations")}
    known = max(migration.version for migration in _migrations())
    newest = max(versions, default=0)
    if newest > known:
        raise SchemaTooNew(database.place, newest, known)
    return versions


@cache
def _migrations() -> tuple[_Migration, ...]:
    files = (resources.files("jsjobs.postgres") / "migrations").iterdir()
    named = sorted((file.name.removesuffix(".sql"), file) for file in files if file.name.endswith(".sql"))
    return tuple(_Migration(int(name.split("_")[0]), name, file.read_text("utf-8")) for name, file in named)
