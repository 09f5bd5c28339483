"""What the roles of `deploy/postgres/roles.sql` may write harms nobody else: plain SQL with each role's credentials."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from jsjobs import JobService
from jsjobs.postgres.checkup import check_up
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import ClaimUnreadable, DatabaseRefused, TablesLocked
from jsjobs.postgres.migrate import migrate
from secured_database import Secured, letter

MEGABYTE = 2**20


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


@pytest.fixture
async def shared(secured_database: Secured) -> Secured:
    """With a letter of each tenant."""
    async with secured_database.open("router") as router:
        for tenant, job_id in (("acme", "normal-1"), ("other", "normal-2")):
            assert await DeadLetters(router, "jobs").store(letter(tenant, job_id))
    return secured_database


FORGED = {
    "another job's id": "at-0123456789abcdef",
    "headers": "replay-1-x\r\nJsjobs-Tenant: other",
    "a command": "replay-1-x\r\nPUB jobs.cancel.normal-2 0\r\n\r\n",
    "nonsense": "x",
    "nothing": "",
    "a large number": "replay-99999999999-{id}",
    "another's letter": "replay-1-{other}",
    "a later replay": "replay-2-{id}",
    "with more behind it": "replay-1-{id}\n",
}


@pytest.mark.parametrize("claim", FORGED)
@pytest.mark.parametrize("user", ["acme", "decides"])
async def test_nobody_writes_whose_id_a_replay_takes(shared: Secured, claim: str, user: str) -> None:
    own, other = await row(shared), await row(shared, "normal-2")
    forged = FORGED[claim].format(id=own.id, other=other.id)
    async with plain_sql(shared, user) as sql:
        for columns in ("replayed_job_id = $2", "replayed_job_id = $2, replayed_at = now()"):
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(f"update job_dlq set {columns} where id = $1", own.id, forged)
    async with shared.open("decides") as operator:
        assert await DeadLetters(operator, "jobs").claim_replay(own.id, force=True) == f"replay-1-{own.id}"


@pytest.mark.parametrize("user", ["acme", "decides"])
async def test_a_decision_is_a_step_from_the_one_before(shared: Secured, user: str) -> None:
    letter_id = (await row(shared)).id
    claim = f"replayed_job_id = 'replay-1-{letter_id}'"
    steps = [
        ("replayed_at = now()", False),  # nothing was claimed
        (f"{claim}, replayed_at = now()", False),
        (f"{claim}, discarded_at = now()", False),
        (claim, True),
        ("discarded_at = now()", False),  # its job may be running
        ("payload = '1'", False),
        ("replayed_job_id = null", False),
        ("replayed_at = '2000-01-01'", True),  # the time is the server's all the same
        ("replayed_at = null", False),
        ("replayed_at = now() + interval '1 day'", False),
        ("replayed_job_id = null, replayed_at = null", False),
        ("discarded_at = '2000-01-01'", True),
        ("discarded_at = null", False),
        (f"replayed_job_id = 'replay-2-{letter_id}', replayed_at = null, discarded_at = null", True),
    ]
    async with plain_sql(shared, user) as sql:
        for change, is_allowed in steps:
            statement = f"update job_dlq set {change} where id = $1"
            if is_allowed:
                assert await sql.execute(statement, letter_id) == "UPDATE 1", change
            else:
                with pytest.raises(asyncpg.CheckViolationError):
                    await sql.execute(statement, letter_id)
        seen = await sql.fetchrow("select replayed_at, discarded_at from job_dlq where id = $1", letter_id)
    assert seen is not None
    assert (seen["replayed_at"], seen["discarded_at"]) == (None, None)


async def test_a_tenants_letter_cannot_be_too_large_for_whoever_looks_at_it(shared: Secured) -> None:
    before = await row(shared)
    many: list[tuple[str, Any]] = [
        ("payload = $1", b"x" * 120 * MEGABYTE),
        ("payload_json = $1", json.dumps("x" * MEGABYTE)),  # which is not what the body says
        ("payload_json = $1", "[" + ",".join(["1e131071"] * 10_000) + "]"),
        ("payload = '[1e131071,1e131071]', payload_json = $1", "[1e131071,1e131071]"),
    ]
    async with plain_sql(shared, "acme") as sql:
        for change, value in many:
            with pytest.raises((asyncpg.CheckViolationError, asyncpg.ProgramLimitExceededError)):
                await sql.execute(f"update job_dlq set {change}", value)
        # What was published is kept, whatever is written into its column.
        assert await sql.execute("update job_dlq set payload = '2', original_payload = $1", b"x" * 120 * MEGABYTE)
        after = await row(shared)
        assert (after.payload, after.original_payload, after.payload_json) == (b"2", before.payload, None)
        assert await sql.execute("update job_dlq set payload_json = '3'")
        assert (await row(shared)).payload_json is None, "that is not what the body says"


async def test_a_list_reads_no_bodies(shared: Secured) -> None:
    """Shown by a user that has no right to read any."""
    columns = "id, namespace, app_id, type, batch_id, error_reason, error_history, dead_at"
    decisions = "replayed_at, replayed_job_id, discarded_at"
    async with plain_sql(shared, "owner") as sql:
        await sql.execute("revoke select on job_dlq from jsjobs_viewer")
        await sql.execute(f"grant select ({columns}, {decisions}) on job_dlq to jsjobs_viewer")
    async with shared.open("views") as viewer:
        letters = DeadLetters(viewer, "jobs")
        assert [(each.app_id, each.last_error) for each in await letters.headings()] == [
            ("other", "no"),
            ("acme", "no"),
        ]
        with pytest.raises(DatabaseRefused, match="permission denied"):
            await letters.list()


async def test_a_router_decides_on_no_letter_and_gives_none_to_another_tenant(shared: Secured) -> None:
    before = await row(shared)
    columns = ("app_id = 'other'", "payload = '1'", "error_history = '[]'", "discarded_at = now()", "type = 'x'")
    async with plain_sql(shared, "router") as sql:
        for change in columns:
            assert await sql.execute(f"update job_dlq set {change}") == "UPDATE 0", change
        for change in ("replayed_job_id = 'x'", "replayed_at = now()", "edited_at = now()", "namespace = 'x'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(f"update job_dlq set {change}")
        new = "insert into job_dlq (namespace, original_job_id, type, priority, payload, error_reason{}) values ('jobs', 'x', 't', 'low', '1', 'Processing'{})"
        for column, value in (("discarded_at", "now()"), ("replayed_job_id", "'x'"), ("edited_at", "now()")):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(new.format(f", {column}", f", {value}"))
        # One that no entry vouched for may become the true one, and is not decided on by that.
        await sql.execute(new.format("", ""))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await sql.execute("update job_dlq set discarded_at = now() where original_job_id = 'x'")
        history = json.dumps([{"attempt": 1, "error": "no", "timestamp": "2026-01-01T00:00:00Z"}])
        mend = "update job_dlq set error_history = $1 where original_job_id = 'x'"
        assert [await sql.execute(mend, history) for _ in range(2)] == ["UPDATE 1", "UPDATE 0"]
    assert await row(shared) == before


async def test_the_shipped_router_lacks_no_right_that_the_doctor_looks_for(shared: Secured) -> None:
    for user, lacking in (("router", []), ("decides", ["insert"]), ("views", ["insert", "update"])):
        async with shared.open(user) as database:
            seen = await check_up(database)
        assert (seen.lacking, seen.encrypted) == (lacking, False)


async def test_an_operators_replay_of_a_tenants_letter_is_the_tenants(
    as_user: Callable[..., JobService.Config], shared: Secured
) -> None:
    """Whatever the tenant wrote: it replays under that letter's own id, and the operator's connection lives."""
    own = await row(shared)
    async with plain_sql(shared, "acme") as sql:
        for forged in FORGED.values():
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(
                    "update job_dlq set replayed_job_id = $1", forged.format(id=own.id, other=own.id) + " "
                )
        await sql.execute("update job_dlq set payload = $1", b'"a\r\nJsjobs-Tenant: other"')
    config = as_user("operator", database_url=shared.url("decides"))
    async with JobService(config) as operator:
        job_id = await operator.replay(str(own.id))
        assert job_id == f"replay-1-{own.id}"
        assert (await operator.status(job_id)).tenant == "acme"
        assert operator.connection.stats["reconnects"] == 0


async def test_a_tenants_lock_holds_up_no_migration_for_long(shared: Secured) -> None:
    """An advisory lock not at all; of a transaction that uses the table one hears whose it is."""
    async with plain_sql(shared, "owner") as owner:
        await owner.execute("delete from jsjobs_migrations where version = 5")
        await owner.execute("drop function jsjobs_letter_decided, jsjobs_letter_edited, jsjobs_letter_document cascade")
        await owner.execute("alter table job_dlq drop constraint job_dlq_size, drop constraint job_dlq_replayed_job_id")
    async with plain_sql(shared, "acme") as sql, shared.open("owner") as database:
        await sql.execute(f"select pg_advisory_lock({int.from_bytes(b'jsjobs', 'big')})")
        reading = sql.transaction()
        await reading.start()
        await sql.execute("select from job_dlq limit 1")
        with pytest.raises(TablesLocked, match=rf"in use by user {shared.name('acme')} \(pid {sql.get_server_pid()}\)"):
            await migrate(database)
        await reading.rollback()
        assert await migrate(database) == ["0005_guarded"]


async def test_what_was_forged_before_the_migration_is_taken_away_by_it(shared: Secured) -> None:
    own = await row(shared)
    async with plain_sql(shared, "owner") as owner:
        await owner.execute("delete from jsjobs_migrations where version = 5")
        await owner.execute("drop function jsjobs_letter_decided, jsjobs_letter_edited, jsjobs_letter_document cascade")
        await owner.execute("alter table job_dlq drop constraint job_dlq_size, drop constraint job_dlq_replayed_job_id")
        await owner.execute("update job_dlq set replayed_job_id = 'x', replayed_at = now()")
    async with shared.open("owner") as database, shared.open("decides") as operator:
        letters = DeadLetters(operator, "jobs")
        for force in (False, True):
            with pytest.raises(ClaimUnreadable, match=r"'x' as its replayed_job_id.*jsjobs db migrate"):
                await letters.claim_replay(own.id, force=force)
        await migrate(database)
        assert await letters.claim_replay(own.id) == f"replay-1-{own.id}"
