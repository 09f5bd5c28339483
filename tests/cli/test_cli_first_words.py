"""Commands say what they connect to, first of all, and what they wait for."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from cli_process import Cli
from terminal import at_terminal

from jsjobs import JobService

STAYING = {
    "worker": ("worker", "app:jobs"),
    "processes": ("worker", "app:jobs", "--processes", "2"),
    "router": ("router",),
    "rpc": ("rpc",),
}


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def first_line(cli: Cli, *command: str, **env: str) -> str:
    process = await cli.start(*command, **env)
    assert process.child.stderr is not None
    async with asyncio.timeout(20):
        return (await process.child.stderr.readline()).decode().strip()


@pytest.mark.parametrize("command", STAYING)
async def test_who_stays_says_first_what_it_connects_to(cli: Cli, config: JobService.Config, command: str) -> None:
    line = await first_line(cli, *STAYING[command])
    assert line.startswith(f"connecting to {config.nats_url}, namespace {config.namespace}")
    assert ("dead letters go to" in line) == (command != "rpc")


async def test_what_it_connects_to_is_said_before_it_is_reached_and_without_secrets(
    cli: Cli, config: JobService.Config, deaf_port: int
) -> None:
    address = f"nats://someone:secret@127.0.0.1:{deaf_port}"
    line = await first_line(cli, "worker", "app:jobs", JSJOBS_NATS_URL=address)
    assert line.startswith(f"connecting to nats://127.0.0.1:{deaf_port}, namespace {config.namespace}, dead letters")
    assert "secret" not in line


async def test_dev_says_at_once_what_it_starts(bare_cli: Cli) -> None:
    assert await first_line(bare_cli, "dev") == f"starting NATS and Postgres for {bare_cli.folder}"


async def test_a_long_wait_for_a_server_is_said_at_a_terminal(cli: Cli, deaf_port: int) -> None:
    address = f"nats://someone:secret@127.0.0.1:{deaf_port}"
    for command in (["queues"], ["submit", "echo", "1"], ["streams", "plan"]):
        async with at_terminal(cli, *command, JSJOBS_NATS_URL=address, columns=200) as terminal:
            await terminal.shows(
                f"waiting for an answer from NATS at nats://127.0.0.1:{deaf_port}, or from Postgres at "
            )
            assert await terminal.ends() == 1
            await terminal.shows("error: ")
            assert "secret" not in terminal.said


async def test_a_long_wait_for_a_job_is_said_at_a_terminal(cli: Cli) -> None:
    job_id = (await cli.run("submit", "echo", "1")).out.strip()
    async with at_terminal(cli, "result", job_id) as terminal:
        await terminal.shows(f"waiting for the end of job {job_id}")
        await cli.worker()
        assert await terminal.ends() == 0
    async with at_terminal(cli, "status", job_id) as terminal:
        assert await terminal.ends() == 0
        assert "waiting for" not in terminal.said
