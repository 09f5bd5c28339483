"""Who may do what with dead letters, by `deploy/postgres/roles.sql`, on the real Postgres."""

from collections.abc import Callable

import pytest

from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseRefused, LetterNotFound
from jsjobs.postgres.migrate import pending
from secured_database import Secured, letter


@pytest.fixture
def secured(secured_database: Secured) -> Secured:
    return secured_database


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
               "update job_dlq set replayed_at = now()", "insert into job_dlq (replayed_job_id) values ('replay-1-x')", "update job_dlq set id = gen_random_uuid()", "create table mine (a int)",
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
