import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cli_process import APP, Cli, environment_of

from bare_environment import bare_environment
from forked import ForkServer
from jsjobs import JobService
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.postgres.database import Database


@pytest.fixture
async def bare_cli(tmp_path: Path, fork_server: ForkServer) -> AsyncIterator[Cli]:
    """The command in an empty folder with an application, where no server is known."""
    (tmp_path / "app.py").write_text(APP)
    cli = Cli(tmp_path, bare_environment(), fork_server)
    yield cli
    await cli.close()


@pytest.fixture
async def cli(bare_cli: Cli, config: JobService.Config, deploy: Callable[[JobService.Config], Awaitable[None]]) -> Cli:
    """The command with servers, in this test's namespace, whose streams exist."""
    await deploy(config)
    bare_cli.env.update(environment_of(config))
    return bare_cli


@pytest.fixture
async def new_cli(
    bare_cli: Cli, config: JobService.Config, deploy: Callable[[JobService.Config], Awaitable[None]]
) -> AsyncIterator[Cli]:
    """The command with servers, in this test's namespace, which has no streams yet."""
    bare_cli.env.update(environment_of(config))
    yield bare_cli
    await deploy(config)  # which deletes them at its end


@pytest.fixture
async def empty_url(postgres: PostgresServer) -> str:
    """The URL of a database without any tables."""
    name = f"empty_{uuid4().hex}"
    async with Database(postgres.url) as database, database.connection() as connection:
        await connection.execute(f"create database {name}")
    return postgres.url.replace("/jsjobs?", f"/{name}?")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process in an empty folder, with an environment in which no server is known."""
    monkeypatch.chdir(tmp_path)
    before, bare = dict(os.environ), bare_environment()
    os.environ.clear()
    os.environ.update(bare)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)
