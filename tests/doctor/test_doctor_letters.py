"""What the doctor says of dead letters, of what is due, and of the database."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from diagnosis import becomes, ills, texts, the_ill
from facts import eventually
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.doctor.checks.database import judged
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.postgres.checkup import Checkup
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate, pending
from secured_database import apply_roles

Make = Callable[..., JobService.Config]
Deploy = Callable[[JobService.Config], Awaitable[None]]
AWAY = "postgresql://jsjobs:the-secret@127.0.0.1:9/jsjobs"


async def test_letters_without_a_router(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    async with JobService(config) as jobs:
        router = await the_ill(config, "router")
        assert router.severity is Severity.NOTE
        async with jobs.worker():
            await jobs.submit("nobody-knows-it", 1)
            at_once, later = [await becomes(config, "letters", how) for how in (Severity.WARNING, Severity.PROBLEM)]
        assert "dead letters are pending: 1," in at_once.what
        assert later.where == Names(config.namespace).dead_stream
        assert "no router is running" in later.what
        assert "`jsjobs router`" in later.remedy
        async with jobs.router():

            async def is_taken() -> bool:
                return not {"letters", "router"} & set(await ills(config))

            await eventually(is_taken)


async def test_letters_while_postgres_is_down(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(ack_wait=1, database_url=AWAY)
    await deploy(config)
    async with JobService(config) as jobs, jobs.worker(), jobs.router():
        await jobs.submit("nobody-knows-it", 1)
        letters = await becomes(config, "letters", Severity.PROBLEM)
        found = await ills(config)
    assert "a router is running, but cannot store them in Postgres" in letters.what
    assert "check that Postgres is up" in letters.remedy
    (database,) = found["database"]
    assert (database.severity, database.where) == (Severity.PROBLEM, "127.0.0.1:9/jsjobs")
    assert "set DATABASE_URL" in database.remedy
    assert "the-secret" not in texts(found)


async def test_what_is_due_and_finds_its_queue_full(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(capacity=1, ack_wait=1)
    await deploy(config)
    async with JobService(config) as jobs:
        await jobs.submit("t", 1, priority="low", entity="e")
        await jobs.submit("t", 2, priority="low", entity="e", delay=0.1)
        finding = await becomes(config, "due", Severity.PROBLEM)
        assert finding.where == "low"
        assert "its queue does not take due jobs: 1," in finding.what
        assert "see capacity" in finding.remedy
        assert "capacity" in await ills(config)

        @jobs.handler("t")
        async def run(payload: int) -> int:
            return payload

        async with jobs.worker():

            async def is_taken() -> bool:
                return "due" not in await ills(config)

            await eventually(is_taken)


async def new_database(postgres: PostgresServer, options: str = "") -> str:
    name = f"doctor_{uuid4().hex}"
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"create database {name} {options}")
    return postgres.url.replace("/jsjobs?", f"/{name}?")


async def as_user(url: str, *statements: str) -> str:
    """The same database for a user of its own, after statements in which USER is its name."""
    user = f"u{uuid4().hex}"
    async with Database(url) as database, database.connection() as connection:
        for statement in ("create role USER login password 'the-secret'", *statements):
            await connection.execute(statement.replace("USER", user))
    return url.replace("//postgres@", f"//{user}:the-secret@")


async def test_a_database_without_tables(settings_of: Make, postgres: PostgresServer) -> None:
    config = settings_of(database_url=await new_database(postgres))
    finding = await the_ill(config, "database")
    assert (finding.severity, finding.remedy) == (Severity.PROBLEM, "jsjobs db migrate")
    assert "0001_job_dlq" in finding.what


async def test_a_database_of_a_newer_version(settings_of: Make, postgres: PostgresServer) -> None:
    url = await new_database(postgres)
    async with Database(url) as database:
        await migrate(database)
        async with database.connection() as connection:
            await connection.execute("insert into jsjobs_migrations (version, name) values (9999, 'later')")
    finding = await the_ill(settings_of(database_url=url), "database")
    assert (finding.severity, finding.remedy) == (Severity.PROBLEM, "update jsjobs here")
    assert "9999" in finding.what


async def test_rights_that_a_router_needs(settings_of: Make, postgres: PostgresServer) -> None:
    url = await new_database(postgres)
    async with Database(url) as database:
        await migrate(database)
        assert not await pending(database)
    await asyncio.to_thread(apply_roles, url)
    reader = await as_user(url, "grant jsjobs_viewer to USER")
    found = await ills(settings_of(database_url=reader))
    (finding,) = found["database"]
    assert finding.severity is Severity.WARNING
    assert "may read letters alone: as a router it could not store any" in finding.what
    assert "grant jsjobs_router to it" in finding.remedy
    stranger = await ills(settings_of(database_url=await as_user(url)))
    (finding,) = stranger["database"]
    assert finding.severity is Severity.WARNING
    assert "may do nothing with dead letters" in finding.what
    assert "the-secret" not in texts(found) + texts(stranger)


async def test_a_database_that_takes_no_writes(settings_of: Make, postgres: PostgresServer, database_url: str) -> None:
    await asyncio.to_thread(apply_roles, database_url)
    url = await as_user(
        database_url, "grant jsjobs_router to USER", "alter role USER set default_transaction_read_only = on"
    )
    finding = await the_ill(settings_of(database_url=url), "database")
    assert finding.severity is Severity.PROBLEM
    assert "takes no writes" in finding.what
    assert "primary" in finding.remedy


async def test_a_database_in_another_encoding(settings_of: Make, postgres: PostgresServer) -> None:
    url = await new_database(postgres, "encoding 'LATIN1' locale_provider libc locale 'C' template template0")
    said = [finding.what for finding in (await ills(settings_of(database_url=url)))["database"]]
    assert said[0] == "its encoding is LATIN1"
    assert "migrations are missing" in said[1]


async def test_no_database(settings_of: Make) -> None:
    finding = await the_ill(settings_of(database_url=None), "database")
    assert (finding.severity, finding.where) == (Severity.NOTE, "DATABASE_URL")


def answered(server: int = 180_000, version: str = "18", *, encrypted: bool = True) -> Checkup:
    rights = ["store", "read", "decide"]
    return Checkup(server, version, "UTF8", "jsjobs", False, encrypted, pending=[], rights=rights, tampered=[])


def test_a_postgres_that_is_too_old() -> None:
    (finding,) = judged(answered(server=120_015, version="12.15"), "db:5432/jsjobs")
    assert (finding.severity, finding.what) == (Severity.PROBLEM, "Postgres 12.15 is too old")
    assert "13 or later" in finding.remedy


@pytest.mark.parametrize(
    ("place", "is_far"),
    [
        ("db.example:5432/jsjobs", True),
        ("10.0.0.7:5432/jsjobs", True),
        ("127.0.0.1:5432,db.example:5432/jsjobs", True),
        ("127.0.0.1.example:5432/jsjobs", True),
        ("localhost.example:5432", True),
        ("[fe80::1]:5432/jsjobs", True),
        ("127.0.0.1:5432/jsjobs", False),
        ("localhost:5432", False),
        ("[::1]:6432/jsjobs", False),
        ("/var/run/postgresql:5432/jsjobs", False),
    ],
)
def test_a_connection_that_others_can_read(place: str, is_far: bool) -> None:
    for encrypted in (True, False):
        (finding,) = judged(answered(encrypted=encrypted), place)
        if is_far and not encrypted:
            assert finding.severity is Severity.WARNING
            assert "not encrypted" in finding.what
            assert "sslmode=verify-full" in finding.remedy
        else:
            assert finding.severity is Severity.OK


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"JSJOBS_REPLICAS": "3", "JSJOBS_HEALTH_PORT": "1", "jsjobs_scale": "2", "PATH": "x"}, []),
        ({"JSJOBS_REPLICA": "the-secret"}, ["did you mean JSJOBS_REPLICAS?"]),
        ({"JSJOBS_XYZZY": "the-secret"}, ["remove it"]),
        (
            {"JSJOBS_HEALTHPORT": "1", "JSJOBS_NATS_URLS": "x"},
            ["did you mean JSJOBS_HEALTH_PORT?", "did you mean JSJOBS_NATS_URL?"],
        ),
    ],
)
async def test_variables_that_no_setting_knows(settings_of: Make, environ: dict[str, str], said: list[str]) -> None:
    found = await ills(settings_of(database_url=None), environ=environ, known_variables={"JSJOBS_HEALTH_PORT"})
    assert [finding.remedy for finding in found.get("environment", [])] == said
    assert "the-secret" not in texts(found)
