"""Who may do what with dead letters, by `deploy/postgres/roles.sql`, on the real Postgres."""

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
        assert await letters.highest_sequences() == {"normal": 2}
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


CALLS = {
    "store": """select jsjobs_api.store(
        'jobs', 'acme', 'x', 't', 'low', null, null, '1', true, '[]', null, 'Processing', '[]', 1, null, now(), null, 0
    )""",
    "met": "select jsjobs_api.met('jobs', 'x', 'acme', 't', null)",
    "holders": "select jsjobs_api.holders('jobs', gen_random_uuid(), null)",
    "letters": "select jsjobs_api.letters('jobs', null, null, null, null, null, false, false, null, null, 9)",
    "headings": "select jsjobs_api.headings('jobs', null, null, null, null, null, false, false, 9)",
    "count": "select jsjobs_api.count('jobs', null, null, null, null, null, false, false)",
    "undecided": "select jsjobs_api.undecided('jobs', null, null, null, null, null, 9)",
    "letter": "select jsjobs_api.letter('jobs', gen_random_uuid())",
    "find": "select jsjobs_api.find('jobs', 'x', null, null)",
    "highest_sequences": "select jsjobs_api.highest_sequences('jobs')",
    "claim_replay": "select jsjobs_api.claim_replay('jobs', gen_random_uuid(), false, 1)",
    "mark_replayed": "select jsjobs_api.mark_replayed('jobs', gen_random_uuid(), 'x', 1)",
    "discard": "select jsjobs_api.discard('jobs', gen_random_uuid(), 1)",
    "edit": "select jsjobs_api.edit('jobs', gen_random_uuid(), '1', true, false, null, 1)",
}
READ = {"letters", "headings", "count", "undecided", "letter", "find"}
DECIDE = {"holders", "claim_replay", "mark_replayed", "discard", "edit"}
ALLOWED = {
    "owner": set(CALLS),
    "router": {"store", "met", "holders", "highest_sequences"},
    "decides": {*READ, *DECIDE, "highest_sequences"},
    "views": {*READ, "highest_sequences"},
    "acme": READ | DECIDE,
    "nobody": set[str](),
}


@pytest.mark.parametrize("user", ALLOWED)
async def test_a_role_may_call_what_it_is_for_and_nothing_else(secured: Secured, user: str) -> None:
    functions = "select proname from pg_proc where pronamespace = 'jsjobs_api'::regnamespace"
    assert {each[0] for each in await secured.run("owner", functions)} == {*CALLS, "rights"}
    for name, statement in CALLS.items():
        if name in ALLOWED[user]:
            await secured.run(user, statement)
        else:
            with pytest.raises(DatabaseRefused, match=rf"user {secured.name(user)} is no member of jsjobs_"):
                await secured.run(user, statement)


DENIED = {
    "router": ["create table mine (a int)", "delete from jsjobs_migrations"],
    "views": ["create schema mine", "create function jsjobs_api.f() returns int language sql as 'select 1'",
              "drop function jsjobs_api.rights", "grant jsjobs_viewer to current_user"],
    "acme": ["insert into jsjobs_data.tenants values (current_user, 'jobs', 'other')", "set role jsjobs_operator",
             "select set_config('role', 'jsjobs_viewer', false)", "set session authorization jsjobs_operator"],
}  # fmt: skip


@pytest.mark.parametrize("user", DENIED)
async def test_what_a_role_may_not_is_refused(secured: Secured, user: str) -> None:
    for statement in DENIED[user]:
        with pytest.raises(DatabaseRefused, match=r"permission denied|must be owner|must have admin"):
            await secured.run(user, statement)


async def test_a_tenant_sees_and_changes_its_own_letters_alone(secured: Secured) -> None:
    async with secured.open("router") as router:
        for tenant, job_id in (("acme", "normal-1"), ("other", "normal-2"), ("default", "normal-3")):
            await DeadLetters(router, "jobs").store(letter(tenant, job_id))
        await DeadLetters(router, "elsewhere").store(letter("acme", "normal-4"))
    assert await secured.letters("acme") == {"normal-1": "acme"}
    assert await secured.letters("other") == {"normal-2": "other"}
    # No setting of a session shows more, and nothing that it has put before the tables in its own path is read.
    attempts = [
        ["set jsjobs.tenant = 'other'"],
        ["set row_security = off"],
        ["set role jsjobs_tenant"],
        ["create temporary table job_dlq (id int)", "set search_path = pg_temp, public"],
        [
            "create function pg_temp.pg_has_role(name, name, text) returns boolean language sql as 'select true'",
            "set search_path = pg_temp, pg_catalog",
        ],
    ]
    seen = "select app_id, namespace from jsjobs_api.letters('jobs', null, null, null, null, null, true, true, null, null, 9)"
    for attempt in attempts:
        rows = await secured.run("acme", *attempt, seen)
        assert {(row["app_id"], row["namespace"]) for row in rows} == {("acme", "jobs")}
    async with secured.open("acme") as database, secured.open("views") as all_of_them:
        own, every = DeadLetters(database, "jobs"), DeadLetters(all_of_them, "jobs")
        theirs = (await every.find("normal-2")).id
        for change in (own.discard(theirs), own.edit(theirs, b"1"), own.claim_replay(theirs)):
            with pytest.raises(LetterNotFound):
                await change
        assert await own.discard((await own.find("normal-1")).id)
        assert (await every.find("normal-2")).discarded_at is None
