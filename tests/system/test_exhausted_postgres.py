"""Postgres answers and can take nothing: letters wait, it is said once, and each is stored once in the end."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from facts import eventually
from full_storage import BALLAST, fill_disk, small_disk
from jsjobs import JobService
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate

ROLE = "letters_only"
MOST = 12
"""Connections that this role may have."""


class Exhausted:
    """A database of its own, which can be made to take nothing, and to take again."""

    def __init__(self, url: str, name: str, how: str) -> None:
        self.admin_url = url.replace("/jsjobs?", f"/{name}?")
        self.url = self.admin_url
        self.name = name
        self.how = how
        self._stack = AsyncExitStack()
        self._disk: Path | None = None

    async def prepare(self) -> None:
        async with Database(self.admin_url) as database:
            await migrate(database)
        if self.how == "full disk":
            await self._move_to_a_small_disk()
        if self.how == "no connections":
            role = f"{ROLE}_{self.name}"
            await self._run(
                f"create role {role} login password 'pw' connection limit {MOST}",
                f"grant postgres to {role}",  # it may do what the tables' owner may
            )
            head, _, tail = self.admin_url.rpartition("@")
            self.url = f"{head.split('://')[0]}://{role}:pw@{tail}"

    async def take_nothing(self) -> None:
        match self.how:
            case "read-only":
                await self._run(f"alter database {self.name} set default_transaction_read_only = on")
            case "no connections":
                for _ in range(MOST):
                    holder = await asyncpg.connect(self.url)
                    self._stack.push_async_callback(holder.close)
            case "full disk":
                assert self._disk is not None
                await fill_disk(self._disk)

    async def take_again(self) -> None:
        match self.how:
            case "read-only":
                await self._run(
                    "set default_transaction_read_only = off",
                    f"alter database {self.name} set default_transaction_read_only = off",
                )
            case "no connections":
                await self._stack.aclose()
            case "full disk":
                assert self._disk is not None
                (self._disk / BALLAST).unlink()

    async def remove(self) -> None:
        if self._disk is not None:
            await self._run("drop table jsjobs_data.job_dlq cascade", f"drop tablespace small_{self.name}")
        await self._stack.aclose()

    async def _move_to_a_small_disk(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(folder.chmod, 0o755)  # Postgres may run as another user
        self._disk = self._stack.enter_context(small_disk(folder / "disk"))
        if self._disk is None:
            self.how = "read-only"
            return
        connection = await asyncpg.connect(self.admin_url)
        data = Path(await connection.fetchval("show data_directory"))
        owner = await asyncio.to_thread(data.stat)
        await connection.close()
        place = self._disk / "space"
        place.mkdir()
        os.chown(place, owner.st_uid, owner.st_gid)
        await self._run(
            f"create tablespace small_{self.name} location '{place}'",
            f"alter table jsjobs_data.job_dlq set tablespace small_{self.name}",
        )

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.admin_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(params=["read-only", "no connections", "full disk"])
async def exhausted(request: pytest.FixtureRequest, postgres: PostgresServer) -> AsyncIterator[Exhausted]:
    name = f"exhausted_{uuid4().hex}"
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"create database {name}")
    made = Exhausted(postgres.url, name, request.param)
    await made.prepare()
    yield made
    await made.remove()


async def test_letters_wait_while_postgres_can_take_nothing(
    exhausted: Exhausted,
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="jsjobs.router")
    config = settings_of(database_url=exhausted.url)
    await deploy(config)
    async with JobService(config) as jobs:

        @jobs.handler("dies")
        async def dies(_: str) -> None:
            raise JobService.Error.from_validation("it shall die")

        await exhausted.take_nothing()
        router = jobs.router()
        async with jobs.worker(), router:
            ids = [await jobs.submit("dies", os.urandom(100_000).hex(), priority="critical") for _ in range(3)]
            await eventually(lambda: "can take nothing now" in router.trouble)
            assert not router.why_not_ready
            await asyncio.sleep(2)
            await exhausted.take_again()
            await eventually(lambda: not router.trouble, within=40)
            await eventually(lambda: all_stored(jobs, ids), within=40)
        assert sorted(letter.original_job_id for letter in await jobs.dlq.list(limit=100)) == sorted(ids)
    said = [record.getMessage() for record in caplog.records if "dead letters are pending: " in record.getMessage()]
    assert len(said) == 1


async def all_stored(jobs: JobService, ids: list[str]) -> bool:
    return len(await jobs.dlq.list(limit=100)) == len(ids)
