"""What the roles of `deploy/postgres/roles.sql` may ask for harms nobody else: plain SQL with each role's credentials."""

import asyncio
import json
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.cli.errors import judge
from jsjobs.dead_letters.replay import check_size
from jsjobs.doctor.checks.database import judged
from jsjobs.doctor.finding import Severity
from jsjobs.postgres.checkup import check_up
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import (
    DatabaseError,
    DatabaseUnavailable,
    LetterLocked,
    LetterUnpublishable,
    TablesLocked,
)
from jsjobs.postgres.migrate import migrate
from secured_database import Secured, apply_roles, letter

MEGABYTE = 2**20
TABLE = "jsjobs_data.job_dlq"
HISTORY = '[{"attempt": 1, "error": "no", "timestamp": "2026-01-01T00:00:00Z"}]'
ROLES = {"views": "viewer", "acme": "tenant", "decides": "operator", "router": "router"}


@asynccontextmanager
async def plain_sql(database: Secured, user: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.url(user))
    try:
        yield connection
    finally:
        await connection.close()


async def row(database: Secured, job_id: str = "normal-1") -> DeadLetter:
    async with database.open("decides") as operator:
        return await DeadLetters(operator, "jobs").find(job_id)


async def store(sql: asyncpg.Connection, job_id: str = "normal-7", **given: Any) -> Any:
    """As a router, with whatever it likes."""
    values: dict[str, Any] = {
        "in_namespace": "jobs",
        "app_id": "acme",
        "original_job_id": job_id,
        "type": "t",
        "priority": "normal",
        "entity": None,
        "batch_id": None,
        "payload": b"1",
        "is_document": True,
        "headers": "[]",
        "headers_raw": None,
        "error_reason": "Processing",
        "error_history": HISTORY,
        "attempts": 1,
        "created_at": None,
        "dead_at": "2026-01-01",
        "traceparent": None,
        "errors_dropped": 0,
        **given,
    }
    times = ("created_at", "dead_at")
    words = [f"{name} => ${n}{'::text::timestamptz' if name in times else ''}" for n, name in enumerate(values, 1)]
    return await sql.fetchval(f"select jsjobs_api.store({', '.join(words)})", *values.values())


@pytest.fixture
async def shared(secured_database: Secured) -> Secured:
    """With a letter of each tenant."""
    async with secured_database.open("router") as router:
        for tenant, job_id in (("acme", "normal-1"), ("other", "normal-2")):
            assert await DeadLetters(router, "jobs").store(letter(tenant, job_id))
    return secured_database


NAMING = [
    "select 1 from {}",
    "explain analyze select 1 from {} where app_id = 'other' and payload >= 'x'",
    "prepare p as select 1 from {}",
    "select 1 from {} for update",
    "lock table {} in access share mode",
    "create rule x as on update to {} do instead nothing",
    "create temporary view v as select * from {}",
    "insert into {} default values",
    "update {} set discarded_at = now()",
    "delete from {}",
    "truncate {}",
    "drop table {}",
    "alter table {} add column x int",
    "create index on {} (type)",
    "copy {} to stdout",
]


@pytest.mark.parametrize("user", ["acme", "views", "decides", "router", "nobody"])
async def test_nobody_but_the_owner_can_name_a_table(shared: Secured, user: str) -> None:
    """So none holds a lock on one for longer than a call, and none asks the planner about others' letters."""
    async with plain_sql(shared, user) as sql:
        for table in (TABLE, "jsjobs_data.tenants"):
            for statement in NAMING:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for schema"):
                    async with sql.transaction():
                        await sql.execute(statement.format(table))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for schema"):
            await sql.fetch(
                "select jsjobs_data.chosen('jobs', null, null, null, null, null, null, true, true, null, null, 9)"
            )


READ = """
select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'job_dlq'
"""


async def test_what_a_tenant_asks_for_is_looked_for_among_its_own_letters_alone(shared: Secured) -> None:
    """Plans and the server's statistics tell it the same, whether others' letters are what it asked for or not."""
    async with plain_sql(shared, "router") as router:
        for n in range(50):
            theirs = {"app_id": "other", "type": "secret", "batch_id": "b", "error_reason": "Timeout"}
            await store(router, f"normal-{n + 10}", dead_at="2900-01-01", **theirs)
    asked = (
        ("of_type", "secret"),
        ("of_batch", "b"),
        ("of_reason", "Timeout"),
        ("of_tenant", "other"),
        ("since", (datetime.now(UTC) + timedelta(hours=12)).isoformat()),
    )
    calls = (
        "select 1 from jsjobs_api.letters('jobs', {}, true, true, null, null, 9)",
        "select jsjobs_api.count('jobs', {}, true, true)",
        "select 1 from jsjobs_api.headings('jobs', {}, false, false, 9)",
        "select 1 from jsjobs_api.undecided('jobs', {}, 9)",
    )
    async with plain_sql(shared, "owner") as owner:
        await owner.execute(f"analyze {TABLE}")
    names = ("of_tenant", "of_type", "of_reason", "since", "of_batch")
    async with plain_sql(shared, "acme") as sql:
        for call in calls:
            seen = set()
            for name, value in [*asked, ("of_type", "none"), ("of_batch", "none"), ("since", "9500-01-01")]:
                given = ", ".join(f"'{value}'" if each == name else "null" for each in names)
                statement = call.format(given)
                async with sql.transaction():
                    before = await sql.fetchval(READ) or 0
                    await sql.fetch(statement)
                    read = await sql.fetchval(READ) - before
                plan = await sql.fetch(
                    f"explain (analyze, costs off, timing off, buffers off, summary off) {statement}"
                )
                assert "job_dlq" not in str(plan)
                seen.add(read)
            assert len(seen) == 1, (call, seen)
        seen = set()
        for job_id in ("normal-2", "normal-10", "nosuch"):
            async with sql.transaction():
                before = await sql.fetchval(READ) or 0
                assert await sql.fetch("select 1 from jsjobs_api.find('jobs', $1, null, null)", job_id) == []
                seen.add(await sql.fetchval(READ) - before)
        assert len(seen) == 1, seen
        # That is what is left: how much there is of all tenants together, and who may log in.
        assert await eventually(
            lambda: sql.fetchval("select n_tup_ins from pg_stat_user_tables where relname = 'job_dlq'")
        )
        assert shared.name("other") in [each[0] for each in await sql.fetch("select rolname from pg_roles")]
        everything = "select original_job_id from jsjobs_api.letters('jobs', null, null, null, null, null, true, true, null, null, 99)"
        assert [each[0] for each in await sql.fetch(everything)] == ["normal-1"]


@pytest.mark.parametrize("user", ROLES)
async def test_no_member_takes_away_what_its_role_may(shared: Secured, user: str) -> None:
    async with plain_sql(shared, user) as sql:
        await sql.execute(f"drop owned by jsjobs_{ROLES[user]}, current_user")
    async with plain_sql(shared, "router") as router, plain_sql(shared, "decides") as operator:
        assert await store(router)
        assert await operator.fetchval("select outcome from jsjobs_api.discard('jobs', $1, 1)", (await row(shared)).id)
    assert sorted(await shared.letters("views")) == ["normal-2", "normal-7"]
    assert sorted(await shared.letters("acme")) == ["normal-7"]
    async with shared.open("router") as database:
        assert [each.severity for each in judged(await check_up(database), "")] == [Severity.WARNING]  # no TLS


async def test_a_tenant_is_not_told_how_letters_are_looked_for(shared: Secured) -> None:
    """A plan's estimates are made of all letters: how often a type is among them, say."""
    told: list[str] = []
    async with plain_sql(shared, "acme") as sql:
        sql.add_log_listener(lambda _, message: told.append(str(message.as_dict())))
        await sql.execute("set client_min_messages = debug5; set debug_print_plan = on; set debug_print_rewritten = on")
        for call in (
            "select 1 from jsjobs_api.letters('jobs', null, 't', null, null, null, true, true, null, null, 9)",
            "select jsjobs_api.count('jobs', null, 't', null, null, null, true, true)",
            "select 1 from jsjobs_api.find('jobs', 'normal-1', null, null)",
            "select jsjobs_api.discard('jobs', gen_random_uuid(), 1)",
        ):
            await sql.fetch(call)
        await eventually(lambda: any("PLANNEDSTMT" in each for each in told))  # of its own statements
    assert not [each for each in told if "in_namespace" in each or "job_dlq" in each or "PL/pgSQL" in each]


SLIPS = {
    f"grant select on {TABLE} to public": "public has rights on the table job_dlq",
    "grant insert on jsjobs_data.tenants to jsjobs_tenant": "jsjobs_tenant has rights on the table tenants",
    "revoke execute on function jsjobs_api.store from public": "public may not call the function store",
}


@pytest.mark.parametrize("slip", SLIPS)
async def test_the_doctor_sees_rights_that_are_not_as_shipped(shared: Secured, slip: str) -> None:
    async def told() -> list[str]:
        async with shared.open("views") as database:
            return [each.what for each in judged(await check_up(database), "localhost:1/x")]

    async with plain_sql(shared, "owner") as owner:
        await owner.execute(slip)
    assert SLIPS[slip] in await told()
    await asyncio.to_thread(apply_roles, shared.url("owner"))
    assert await told() == [f"user {shared.name('views')} may read letters alone: as a router it could not store any"]


async def test_who_may_do_nothing_hears_so(shared: Secured) -> None:
    for user, may in (("router", ["store"]), ("decides", ["read", "decide"]), ("views", ["read"]), ("nobody", [])):
        async with shared.open(user) as database:
            assert (await check_up(database)).rights == may
    async with shared.open("owner") as database:
        assert (await check_up(database)).rights == ["store", "read", "decide"]


ODD = {
    "the first of Python's years": {"dead_at": "0001-01-01 00:00:00Z"},
    "before Christ": {"dead_at": "4000-01-01 BC"},
    "before all infinity": {"dead_at": "-infinity"},
    "the last of Python's years": {"created_at": "9999-12-31 23:59:59.999999Z"},
    "created in a year that Python has not": {"created_at": "20000-01-01"},
    "headers that are numbers": {"headers": "[[1, 2]]"},
    "headers that are an object": {"headers": '{"a": "b"}'},
    "headers of three": {"headers": '[["a", "b", "c"]]'},
    "a history that is an object": {"error_history": '{"a": 1}'},
    "a history of texts": {"error_history": '["x"]'},
    "a history without errors": {"error_history": "[{}]"},
    "a nested error": {"error_history": '[{"attempt": 1, "error": {}, "timestamp": "t"}]'},
    "a long number": {"error_history": HISTORY.replace("1", "1" * 5000, 1)},
    "no history": {"error_history": "null"},
    "a history of megabytes": {"error_history": HISTORY.replace("no", "x" * 3 * MEGABYTE)},
    "a body of megabytes": {"payload": b"x" * 8 * MEGABYTE},
    "a megabyte of headers": {"headers": json.dumps([["X", "y" * MEGABYTE]])},
    "a raw header of megabytes": {"headers_raw": b"x" * 2 * MEGABYTE},
    "a long type": {"type": "t" * 100_000},
    "a long entity": {"entity": "e" * 100_000},
    "a long tenant": {"app_id": "e" * 300},
    "a long batch": {"batch_id": "e" * 300},
    "a long reason": {"error_reason": "e" * 300},
    "a long trace": {"traceparent": "e" * 300},
    "a priority that there is not": {"priority": "high.1"},
    "an empty priority": {"priority": ""},
    "an entity that breaks lines": {"entity": "é\u2028x"},
    "an entity that begins with space": {"entity": " x"},
    "an empty entity": {"entity": ""},
    "an entity longer than a name": {"entity": "e" * 257},
    "a tenant that is not printed": {"app_id": "acme\u200b"},
    "a tenant with a line feed": {"app_id": "acme\r\nX: y"},
    "a tenant that is a space": {"app_id": " "},
    "no tenant": {"app_id": ""},
    "a negative count": {"attempts": -1},
}


@pytest.mark.parametrize("odd", ODD)
async def test_no_row_that_others_could_not_read_is_let_in(shared: Secured, odd: str) -> None:
    async with plain_sql(shared, "router") as sql:
        with pytest.raises(asyncpg.CheckViolationError):
            await store(sql, **ODD[odd])
        # Nor by way of one that gives way to the true one.
        await store(sql, error_history="[]")
        with pytest.raises(asyncpg.CheckViolationError):
            await store(sql, **{"error_history": HISTORY, **ODD[odd]})
    async with shared.open("views") as viewer:
        assert len(await DeadLetters(viewer, "jobs").list()) == 3


async def test_an_export_ends_whatever_times_a_router_forges(shared: Secured) -> None:
    """What lies in the future, up to infinity, is brought down to a day ahead."""
    async with plain_sql(shared, "router") as sql:
        for n in range(60):
            await store(sql, f"normal-{n + 10}", dead_at=("9999-12-31 23:59:59.999999Z", "infinity")[n % 2])
        for n in range(60):
            await store(sql, f"normal-{n + 100}", dead_at="2000-01-01 00:00:00Z")
    async with shared.open("views") as viewer, asyncio.timeout(30):
        seen = [one.original_job_id async for page in DeadLetters(viewer, "jobs").pages() for one in page]
        newest = (await DeadLetters(viewer, "jobs").list(limit=1))[0].dead_at
    assert len(seen) == len(set(seen)) == 122
    assert newest < datetime.now(UTC) + timedelta(days=2)


async def test_an_export_ends_over_times_that_the_owner_let_in(shared: Secured) -> None:
    async with plain_sql(shared, "owner") as owner:
        await owner.execute(f"alter table {TABLE} drop constraint job_dlq_times")
        await owner.execute(
            f"insert into {TABLE} (namespace, app_id, original_job_id, type, priority, payload, error_reason, dead_at)"
            " select 'jobs', 'acme', 'low-' || n, 't', 'low', '1', 'x', '9999-12-31 23:59:59.999999Z' from generate_series(1, 60) as n"
        )
    async with shared.open("views") as viewer, asyncio.timeout(30):
        assert [len(page) async for page in DeadLetters(viewer, "jobs").pages()] == [50, 50]


async def test_a_tenants_edit_of_a_made_up_letter_does_not_run_for_another(shared: Secured) -> None:
    async with plain_sql(shared, "router") as router, plain_sql(shared, "acme") as acme:
        for job_id, type_ in (("normal-7", "t"), ("normal-8", "u"), ("normal-9", "t")):
            made_up = await store(router, job_id, type=type_, error_history="[]")
            assert await acme.fetchval(EDIT, made_up, b'"of acme"') == "done"
        for job_id, tenant in (("normal-7", "other"), ("normal-8", "acme"), ("normal-9", "acme")):
            assert await store(router, job_id, app_id=tenant, payload=b'"true"')
    kept = {job_id: await row(shared, job_id) for job_id in ("normal-7", "normal-8", "normal-9")}
    for job_id in ("normal-7", "normal-8"):  # another tenant's, another type's
        got = kept[job_id]
        assert (got.payload, got.payload_json) == (b'"true"', "true")
        assert (got.original_payload, got.edited_at) == (None, None)
    assert (kept["normal-9"].payload, kept["normal-9"].original_payload) == (b'"of acme"', b'"true"')


@pytest.mark.parametrize("finished", [True, False])
async def test_a_tenants_claim_of_a_made_up_letter_keeps_no_true_one_out(shared: Secured, finished: bool) -> None:
    async with plain_sql(shared, "router") as router, plain_sql(shared, "acme") as acme:
        made_up = await store(router, error_history="[]", payload=b'"made up"')
        assert tuple(await acme.fetchrow(CLAIM, made_up, False) or ()) == ("done", f"replay-1-{made_up}")
        mark = "select jsjobs_api.mark_replayed('jobs', $1, $2, 1)"
        if finished:
            await acme.fetchval(mark, made_up, f"replay-1-{made_up}")
        assert await store(router, app_id="other", payload=b'"true"') == made_up
        await acme.fetchval(mark, made_up, f"replay-1-{made_up}")
    true = await row(shared, "normal-7")
    assert (true.app_id, true.payload, true.replayed_at, true.replayed_job_id) == ("other", b'"true"', None, None)
    async with plain_sql(shared, "other") as other:  # no number of a replay is given twice
        assert tuple(await other.fetchrow(CLAIM, true.id, False) or ()) == ("done", f"replay-2-{true.id}")


async def test_a_letter_without_errors_that_ran_as_it_is_runs_no_second_time(shared: Secured) -> None:
    async with plain_sql(shared, "router") as router, plain_sql(shared, "acme") as acme:
        lone = await store(router, error_history="[]")
        await acme.fetchrow(CLAIM, lone, False)
        assert await store(router) is None
        assert (await row(shared, "normal-7")).replayed_job_id == f"replay-1-{lone}"


async def test_of_letters_without_errors_the_first_stays(shared: Secured) -> None:
    async with plain_sql(shared, "router") as router:
        await store(router, error_history="[]", app_id="other", payload=b'"true"')
        assert await store(router, error_history="[]", payload=b'"forged"') is None
    kept = await row(shared, "normal-7")
    assert (kept.app_id, kept.payload) == ("other", b'"true"')


async def test_a_letter_that_was_stored_ahead_under_an_id_is_told_of(
    shared: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """A router's login can do that, with the letters of all tenants: the true one is then in the log alone."""
    async with plain_sql(shared, "router") as sql:
        ahead = await store(sql, type="forged")
    async with shared.open("router") as router:
        letters, true = DeadLetters(router, "jobs"), letter("other", "normal-7")
        assert not await letters.store(true)
        [said] = [record.getMessage() for record in caplog.records if record.name == "jsjobs.postgres"]
        assert said.startswith("letter of job normal-7 (type t, tenant other, created None) is not stored: ")
        assert f"another letter, {ahead} (type forged, tenant acme, created None), has its id" in said
        caplog.clear()
        assert not await letters.store(letter("other", "normal-2"))  # the same again is no news
        assert not [record for record in caplog.records if record.name == "jsjobs.postgres"]


def test_what_the_table_refuses_in_a_name_python_refuses_too() -> None:
    """So that what `sanitise` lets through is let in."""
    sql = (files("jsjobs.postgres") / "migrations" / "0005_functions.sql").read_text("utf-8")
    [refused] = re.findall(r"select '(\[.u.*\])'", sql)
    pattern = re.compile(refused)
    assert not [hex(n) for n in range(0x110000) if pattern.match(chr(n)) and chr(n).isprintable()]
    refusable = {"Cc", "Cf", "Co", "Zl", "Zp", "Zs"}
    missed = (chr(n) for n in range(1, 0x110000) if unicodedata.category(chr(n)) in refusable and n != 0x20)
    assert not [hex(ord(each)) for each in missed if not pattern.match(each)]


async def test_a_claim_that_nothing_can_publish_is_freed_by_a_discard(shared: Secured) -> None:
    own = (await row(shared)).id
    async with plain_sql(shared, "acme") as sql, plain_sql(shared, "owner") as owner:
        await sql.fetchrow(CLAIM, own, False)
        await owner.execute(f"update {TABLE} set type = 'a b' where id = $1", own)
        assert await sql.fetchval("select outcome from jsjobs_api.discard('jobs', $1, 1)", own) == "done"
        after = await row(shared)
        assert (after.replayed_job_id, after.discarded_at is None) == (None, False)


async def test_decoys_do_not_hide_who_holds_a_letter(shared: Secured) -> None:
    """Named is who holds its row, and not who merely has the tables in use."""
    async with AsyncExitStack() as stack:
        for user in ("nobody", "acme", "nobody", "acme"):
            decoy = await stack.enter_async_context(plain_sql(shared, user))
            await stack.enter_async_context(decoy.transaction())
            await decoy.execute("select 1 from jsjobs_migrations")
            await decoy.execute("select jsjobs_api.rights()")
        holder = await stack.enter_async_context(plain_sql(shared, "other"))
        await stack.enter_async_context(holder.transaction())
        theirs = (await row(shared, "normal-2")).id
        await holder.fetch("select jsjobs_api.discard('jobs', $1, 1)", theirs)
        async with shared.open("decides") as database:
            letters = DeadLetters(database, "jobs")
            told = await asyncio.gather(*(letters.discard(theirs) for _ in range(4)), return_exceptions=True)
        assert {type(each) for each in told} == {LetterLocked}
        only = f"in use by user {shared.name('other')} (pid {holder.get_server_pid()}): "
        assert all(only in str(each) for each in told), told


async def test_who_cannot_be_told_is_not_guessed(shared: Secured) -> None:
    """A letter that another transaction is storing is not to be seen yet, nor whose it is."""
    async with plain_sql(shared, "acme") as decoy, plain_sql(shared, "router") as storing:
        open_ones = [sql.transaction() for sql in (decoy, storing)]
        for each in open_ones:
            await each.start()
        await decoy.execute("select 1 from jsjobs_migrations")
        await store(storing)
        async with shared.open("router") as database:
            with pytest.raises(TablesLocked, match="in use by another transaction: "):
                await DeadLetters(database, "jobs").store(letter("acme", "normal-7"))


async def test_the_document_of_a_letter_is_its_body(shared: Secured) -> None:
    """There is no way to hand in another one."""
    async with plain_sql(shared, "router") as sql:
        for number, (body, document) in enumerate(
            [(b'{"do": "evil"}', {"do": "evil"}), (b"\xff", None), (b"1e131071", None)]
        ):
            await store(sql, f"low-{number}", payload=body)
            read = await row(shared, f"low-{number}")
            assert (read.payload, read.payload_json) == (body, document)
    async with plain_sql(shared, "acme") as sql:
        own = await row(shared)
        edit = "select outcome from jsjobs_api.edit('jobs', $1, $2, true, false, null, 1)"
        assert await sql.fetchval(edit, own.id, b'{"a": 2}') == "done"
    after = await row(shared)
    assert (after.payload_json, after.original_payload) == ({"a": 2}, own.payload)


CLAIM = "select outcome, job_id from jsjobs_api.claim_replay('jobs', $1, $2, 1)"
EDIT = "select outcome from jsjobs_api.edit('jobs', $1, $2, true, false, null, 1)"


async def test_a_letter_that_nobody_could_replay_is_claimed_by_none_and_can_be_discarded(shared: Secured) -> None:
    unpublishable: dict[str, dict[str, Any]] = {
        "high-1": {"payload": b"x" * 917_002},
        "high-2": {"type": "a b.>"},
        "high-3": {"type": "t\r\nPUB jobs.cancel.x 0"},
        "high-4": {"type": "a..b"},
        "high-5": {"type": ""},
        "high-6": {"entity": "é" * 200},
        "high-8": {"headers": json.dumps([["X", "y" * 60_000]])},
    }
    async with plain_sql(shared, "router") as router, plain_sql(shared, "acme") as sql:
        for job_id, given in unpublishable.items():
            await store(router, job_id, **given)
        for job_id in unpublishable:
            letter_id = (await row(shared, job_id)).id
            for force in (False, True):
                assert tuple(await sql.fetchrow(CLAIM, letter_id, force) or ()) == ("unpublishable", None), job_id
        own = await row(shared)
        assert await sql.fetchval(EDIT, own.id, b"x" * 917_002) == "unpublishable"
        assert await row(shared) == own
    async with shared.open("decides") as database:
        letters = DeadLetters(database, "jobs")
        for job_id in unpublishable:
            letter_id = (await letters.find(job_id)).id
            with pytest.raises(LetterUnpublishable, match=r"892 KiB.*submit a new job, and discard this letter"):
                await letters.claim_replay(letter_id)
            assert await letters.discard(letter_id)


async def test_the_largest_body_that_can_be_claimed_can_be_published(shared: Secured) -> None:
    headers = [("Jsjobs-Tenant", "acme"), ("Jsjobs-Entity", 'é"\\x'), ("X", "ü\t" * 400)]
    async with plain_sql(shared, "router") as router, plain_sql(shared, "acme") as sql:
        await store(router, headers=json.dumps(headers), entity='é"\\x')
        own = await row(shared, "normal-7")
        smallest, largest = 0, MEGABYTE  # the first is taken, the other not
        while largest - smallest > 1:
            size = (smallest + largest) // 2
            taken = await sql.fetchval(EDIT, own.id, b"1" * size) == "done"
            smallest, largest = (size, largest) if taken else (smallest, size)
    assert smallest > 900_000
    check_size(replace(own, payload=b"1" * smallest))


async def test_a_decision_is_a_step_from_the_one_before(shared: Secured) -> None:
    """A claim is numbered by the server, and only a forced one takes a discard back."""
    async with plain_sql(shared, "acme") as sql:
        own = (await row(shared)).id
        first, second = (f"replay-{n}-{own}" for n in (1, 2))
        mark = "select jsjobs_api.mark_replayed('jobs', $1, $2, 1)"
        discard = "select outcome from jsjobs_api.discard('jobs', $1, 1)"
        assert await sql.fetchval(mark, own, first) is None  # nothing was claimed, so nothing happens
        assert tuple(await sql.fetchrow(CLAIM, own, False) or ()) == ("done", first)
        assert tuple(await sql.fetchrow(CLAIM, own, True) or ()) == ("unfinished", first)
        assert await sql.fetchval(EDIT, own, b"1") == "unfinished"
        assert await sql.fetchval(discard, own) == "unfinished"
        await sql.fetchval(mark, own, second)
        assert (await row(shared)).replayed_at is None
        await sql.fetchval(mark, own, first)
        assert (await row(shared)).replayed_at is not None
        assert (await sql.fetchrow(CLAIM, own, False) or ())[0] == "replayed"
        assert await sql.fetchval(discard, own) == "done"
        discarded = (await row(shared)).discarded_at
        assert await sql.fetchval(discard, own) == "discarded"
        assert (await row(shared)).discarded_at == discarded
        assert tuple(await sql.fetchrow(CLAIM, own, True) or ()) == ("done", second)
        assert (await row(shared)).discarded_at is None


async def test_an_operators_replay_of_a_tenants_letter_is_the_tenants(
    as_user: Callable[..., JobService.Config], shared: Secured
) -> None:
    """Whatever stands in its headers and its body."""
    async with plain_sql(shared, "router") as router:
        await store(router, headers='[["Jsjobs-Tenant", "other"], ["jsjobs-tenant", "third"]]')
        await store(router, "normal-8", app_id="default", headers='[["Jsjobs-Tenant", "other"]]')
    async with plain_sql(shared, "acme") as sql:
        assert await sql.fetchval(EDIT, (await row(shared)).id, b'"a\r\nJsjobs-Tenant: other"') == "done"
    async with JobService(as_user("operator", database_url=shared.url("decides"))) as operator:
        for job_id, tenant in (("normal-1", "acme"), ("normal-7", "acme"), ("normal-8", None)):
            replayed = await operator.replay(job_id)
            assert (await operator.status(replayed)).tenant == tenant
        assert operator.connection.reconnects == 0


async def test_a_claim_with_characters_of_no_unicode_can_be_finished(
    as_user: Callable[..., JobService.Config], shared: Secured
) -> None:
    """Which those are, each version of Python says for itself, and the table of none."""
    odd = {
        "normal-7": {"entity": "é\u0378x"},
        "normal-8": {"entity": "\u0378"},
        "normal-9": {"entity": "\u0378" * 170},
        "normal-10": {"app_id": "other\u0378"},
    }
    async with plain_sql(shared, "router") as router, plain_sql(shared, "decides") as sql:
        for job_id, given in odd.items():
            claimed = await sql.fetchrow(CLAIM, await store(router, job_id, **given), False)
            assert (claimed or ())[0] == "done"
    async with JobService(as_user("operator", database_url=shared.url("decides"))) as operator:
        seen = [await operator.status(await operator.replay(job_id)) for job_id in odd]
    assert [each.entity for each in seen] == ["éx", None, None, None]
    assert (seen[3].tenant or "").startswith("other\ufffd~")  # nobody's who is there


async def test_a_replay_takes_all_from_the_letter_as_it_was_claimed(
    as_user: Callable[..., JobService.Config], shared: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter that no entry vouched for gives way to the true one, another tenant's, between find and claim."""
    true = letter("other", "normal-7")
    async with plain_sql(shared, "router") as sql:
        await store(sql, type="acme.echo", error_history="[]", headers='[["Jsjobs-Tenant", "acme"]]')
    find = DeadLetters.find

    async def mended(letters: DeadLetters, reference: str) -> DeadLetter:
        found = await find(letters, reference)
        async with shared.open("router") as router:
            assert await DeadLetters(router, "jobs").store(true)
        return found

    monkeypatch.setattr(DeadLetters, "find", mended)
    async with JobService(as_user("operator", database_url=shared.url("decides"))) as operator:
        status = await operator.status(await operator.replay("normal-7"))
    assert (status.tenant, status.type) == ("other", true.type)


async def test_letters_that_a_tenant_holds_cost_seconds_in_sum_and_are_named(shared: Secured) -> None:
    """By calls in a transaction that it leaves open."""
    async with plain_sql(shared, "router") as router:
        for n in range(20):
            await store(router, f"normal-{n + 100}")
    async with plain_sql(shared, "acme") as sql, shared.open("decides") as database:
        letters = DeadLetters(database, "jobs")
        held = [one.id for one in await letters.undecided(tenant="acme")]
        holding = sql.transaction()
        await holding.start()
        for letter_id in held:
            assert await sql.fetchval("select outcome from jsjobs_api.discard('jobs', $1, 1)", letter_id) == "done"
        began = time.monotonic()
        for decide in (letters.discard, letters.claim_replay):
            for letter_id in held:
                with pytest.raises(
                    LetterLocked,
                    match=rf"{letter_id} is in use by .*{shared.name('acme')} \(pid {sql.get_server_pid()}\)",
                ):
                    await decide(letter_id)
        assert await letters.discard((await letters.find("normal-2")).id)
        # Forty tries of a second each, if nobody summed them up; what is seen meanwhile is what was there.
        assert time.monotonic() - began < 20
        assert len(await letters.list(limit=99)) == 21
        await holding.rollback()
        assert await letters.discard(held[0])


async def test_a_router_does_not_wait_long_for_a_letter_that_a_tenant_holds(shared: Secured) -> None:
    async with plain_sql(shared, "router") as router:
        await store(router, error_history="[]")
    letter_id = (await row(shared, "normal-7")).id
    async with plain_sql(shared, "acme") as sql, shared.open("router") as database:
        async with sql.transaction():
            await sql.fetch("select jsjobs_api.discard('jobs', $1, 1)", letter_id)
            began = time.monotonic()
            with pytest.raises(TablesLocked, match=shared.name("acme")):
                await DeadLetters(database, "jobs").store(letter("acme", "normal-7"))
            assert time.monotonic() - began < 5
        assert await DeadLetters(database, "jobs").store(letter("acme", "normal-7"))


async def test_what_holds_the_table_itself_is_named(shared: Secured) -> None:
    async with plain_sql(shared, "owner") as owner, shared.open("decides") as database:
        async with owner.transaction():
            await owner.execute(f"lock table {TABLE}")
            letters, began = DeadLetters(database, "jobs"), time.monotonic()
            asks = (letters.list, letters.headings, letters.count, letters.undecided, letters.highest_sequences)
            for said in await asyncio.gather(*(ask() for ask in asks), return_exceptions=True):
                assert isinstance(said, TablesLocked)
                assert f"in use by user {shared.name('owner')} (pid {owner.get_server_pid()}):" in str(said)
            assert time.monotonic() - began < 10
        assert await letters.count() == 2


@asynccontextmanager
async def queueing(database: Secured, table: str) -> AsyncIterator[None]:
    """A stranger waits for a lock that keeps everybody from a table, while somebody else holds another."""
    waits = "select count(*) from pg_locks where not granted and pid = $1"
    async with plain_sql(database, "nobody") as other, plain_sql(database, "owner") as onlooker:
        await onlooker.fetchval(waits, 0)
        task = asyncio.ensure_future(other.execute(f"create rule x as on update to {table} do instead nothing"))
        try:
            await eventually(lambda: onlooker.fetchval(waits, other.get_server_pid()))
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def unmigrate(owner: asyncpg.Connection) -> None:
    """As it was before the last migration."""
    await owner.execute("delete from jsjobs_migrations where version = 5")
    await owner.execute("drop index jsjobs_data.job_dlq_tenant")
    await owner.execute(f"alter table {TABLE} drop column replays")
    for name in await owner.fetch(
        f"select conname from pg_constraint where conrelid = '{TABLE}'::regclass and contype = 'c'"
    ):
        await owner.execute(f"alter table {TABLE} drop constraint {name[0]}")
    await owner.execute(f"alter table {TABLE} set schema public")
    await owner.execute("drop schema jsjobs_data, jsjobs_api cascade")


@pytest.mark.long
async def test_a_tenants_lock_holds_up_no_migration_for_long(shared: Secured) -> None:
    """One hears whose it is: an open transaction, or what queues up behind it."""
    async with plain_sql(shared, "owner") as owner:
        await unmigrate(owner)
    in_use = rf"in use by .*user {shared.name('acme')} \(pid "
    async with plain_sql(shared, "acme") as sql, shared.open("owner") as database:
        for table in ("job_dlq", "jsjobs_migrations"):
            async with sql.transaction():
                await sql.execute(f"prepare {table}_read as select 1 from {table}")
                async with queueing(shared, table):
                    with pytest.raises(TablesLocked, match=in_use):
                        await migrate(database)
        assert await migrate(database) == ["0005_functions"]


async def test_what_was_forged_before_the_migration_is_taken_away_by_it(shared: Secured) -> None:
    own = await row(shared)
    async with plain_sql(shared, "owner") as owner:
        await unmigrate(owner)
        await owner.execute("update job_dlq set replayed_job_id = 'x', replayed_at = now()")
    async with shared.open("owner") as database, shared.open("decides") as operator:
        await migrate(database)
        assert await DeadLetters(operator, "jobs").claim_replay(own.id) == f"replay-1-{own.id}"


@pytest.mark.long
async def test_a_login_can_hold_up_everybody_by_postgres_own_tables(shared: Secured) -> None:
    """Not to be closed: Postgres takes the lock before it asks for the right. What jsjobs does is give up in time."""
    async with plain_sql(shared, "nobody") as sql, sql.transaction():
        await sql.fetch("select 1 from pg_class limit 1")
        async with queueing(shared, "pg_class"), shared.open("decides") as database:
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable) as said:
                await DeadLetters(database, "jobs").count()
            told, code = judge(said.value)
            assert code == 1
            assert "another session holds a lock on its own tables" in told
            assert "jsjobs dev" not in told
            assert time.monotonic() - began < 20
    async with shared.open("decides") as database:
        assert await DeadLetters(database, "jobs").count() == 2


async def test_a_forged_id_pushes_no_stream_to_the_end_of_its_numbers(shared: Secured) -> None:
    """Half of them stay, whoever forges what."""
    async with plain_sql(shared, "router") as sql:
        for job_id in (f"normal-{2**53 - 1}", "high-9007199254740990", f"low-{2**52 + 1}", f"low-{2**52}"):
            await store(sql, job_id)
    for user in ("decides", "router", "views"):
        async with shared.open(user) as database:
            assert await DeadLetters(database, "jobs").highest_sequences() == {"normal": 2, "low": 2**52}
    async with shared.open("acme") as database:
        with pytest.raises(DatabaseError, match="is no member of"):
            await DeadLetters(database, "jobs").highest_sequences()


async def test_what_still_fills_the_disk_after_logins_sql(shared: Secured) -> None:
    """Not to be closed by rights: a cursor's rows, snapshots, and what is written ahead."""
    await asyncio.to_thread(apply_roles, shared.url("postgres"), "logins.sql")
    written = "select pg_current_wal_insert_lsn() - '0/0'"
    async with plain_sql(shared, "nobody") as sql, plain_sql(shared, "postgres") as onlooker:
        before = await onlooker.fetchval(written)
        async with sql.transaction():
            await sql.execute("select pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
            assert await sql.fetchval("select pg_export_snapshot()")
            held = "declare c cursor with hold for select repeat(md5(n::text), 30) from generate_series(1, 20000) as n"
            await sql.execute(held)
        assert await onlooker.fetchval(written) - before >= 1_000_000
        assert await onlooker.fetchval("select sum(size) from pg_ls_tmpdir()") > 10_000_000
        await sql.execute("close c")


async def test_statistics_tell_a_tenant_whether_an_id_is_a_letters(shared: Secured) -> None:
    """Of a whole id that it knows, and no more: an id is 122 random bits."""
    theirs = (await row(shared, "normal-2")).id
    seen = []
    async with plain_sql(shared, "acme") as sql:
        for letter_id in (theirs, uuid4()):
            async with sql.transaction():
                before = await sql.fetchval(READ) or 0
                assert await sql.fetch("select 1 from jsjobs_api.letter('jobs', $1)", letter_id) == []
                seen.append(await sql.fetchval(READ) - before)
    assert seen[0] != seen[1]


async def test_no_login_fills_the_disk_after_logins_sql(shared: Secured) -> None:
    large = (
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "create temporary table t (a int)",
        "create table t (a int)",
    )
    async with plain_sql(shared, "views") as sql:
        async with sql.transaction():
            for statement in large[:3]:
                await sql.execute(statement)
        await asyncio.to_thread(apply_roles, shared.url("postgres"), "logins.sql")
        for statement in large:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(statement)
    assert len(await shared.letters("views")) == 2
