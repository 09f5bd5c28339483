"""Commands that stay run on and stop in good order though nobody reads what they say, and where the terminal is gone."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process

import pytest
from cli_process import JSJOBS, Cli

from facts import eventually, is_ok, is_processing
from jsjobs import JobService

COMMANDS = {
    "worker": ("worker", "app:jobs"),
    "json": ("worker", "app:jobs", "--log-format", "json"),
    "verbose": ("worker", "app:jobs", "-v"),
    "processes": ("worker", "app:jobs", "--processes", "2"),
    "dev": ("dev", "app:jobs"),
    "dev, no application": ("dev",),
    "router": ("router",),
    "rpc": ("rpc",),
}
WORKERS = ["worker", "json", "verbose", "processes", "dev"]
STAYING = [*WORKERS, "dev, no application", "router", "rpc"]
AT_ONCE = {"worker", "json", "router"}
"""The others start several processes, or differ little."""
IGNORES_HANGUPS = (
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def each(commands: list[str]) -> pytest.MarkDecorator:
    params = [pytest.param(one, marks=() if one in AT_ONCE else pytest.mark.long) for one in commands]
    return pytest.mark.parametrize("command", params)


class Piped:
    """A command whose output goes into one pipe, which its reader may close."""

    def __init__(self, process: Process, reader: int) -> None:
        self.process = process
        self._reader = os.fdopen(reader, "rb")

    async def says(self, word: bytes) -> None:
        async with asyncio.timeout(20):
            while word not in (line := await asyncio.to_thread(self._reader.readline)):
                assert line, f"it ended without saying {word!r}"

    def read_no_more(self) -> None:
        self._reader.close()

    async def ends(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


async def start(cli: Cli, *command: str) -> Piped:
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cli.folder, env=cli.env, stdin=DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    return Piped(process, reader)


@each(WORKERS)
async def test_a_worker_whose_reader_has_gone_lets_its_jobs_end(
    cli: Cli, config: JobService.Config, command: str
) -> None:
    worker = await start(cli, JSJOBS, *COMMANDS[command])
    await worker.says(b"ready")
    worker.read_no_more()
    async with JobService(config) as service:
        job_id = await service.submit("steps", 16, max_attempts=1, priority="high")
        failed = await service.submit("fail", 1, max_attempts=1)
        async for _ in service.progress(job_id):  # its handler runs; one that has not begun would be given back
            break
        with pytest.raises(JobService.Error, match="no good"):
            await service.result(failed, timeout=10)
        worker.process.terminate()
        assert await worker.ends() == 0
        assert await service.result(job_id, timeout=1) == 16
        assert (await service.status(job_id)).attempts == 1


@pytest.mark.long
@pytest.mark.parametrize("options", [["-v"], ["-v", "--processes", "2"]], ids=["worker", "processes"])
async def test_a_worker_whose_reader_lives_and_does_not_read_works_on_and_stops(
    cli: Cli, config: JobService.Config, options: list[str]
) -> None:
    worker = await start(cli, JSJOBS, "worker", "app:jobs", *options)
    await worker.says(b"ready: namespace")
    async with JobService(config) as service:
        numbers = list(range(5000))  # a line for each, of which the pipe takes some hundreds
        assert await service.results(await service.submit("echo", numbers), timeout=60) == numbers
        running = await service.submit("sleep", 1, max_attempts=1, priority="high")
        await eventually(lambda: is_processing(service, running))
        worker.process.terminate()
        assert await worker.ends() == 0
        assert await service.result(running, timeout=1) == "slept"
    worker.read_no_more()


@each(STAYING)
@pytest.mark.long
async def test_a_command_that_nobody_has_read_starts_and_stops(
    cli: Cli, config: JobService.Config, command: str
) -> None:
    port = free_port()
    unread = await start(
        cli, JSJOBS, *COMMANDS[command], *(["--health-port", str(port)] if command == "router" else [])
    )
    unread.read_no_more()
    async with JobService(config) as service:
        if command in WORKERS:
            assert await service.result(await service.submit("echo", 1), timeout=20) == 1
        elif command == "router":
            await eventually(lambda: asyncio.to_thread(is_ok, f"http://127.0.0.1:{port}/ready"))
        else:
            await eventually(lambda: service.connection.ask(f"$SRV.PING.{config.namespace}".encode()))
    unread.process.terminate()
    assert await unread.ends() == 0


@each(STAYING)
@pytest.mark.long
async def test_a_hangup_is_a_graceful_stop_however_often_it_is_said(
    cli: Cli, config: JobService.Config, command: str
) -> None:
    process = await start(cli, JSJOBS, *COMMANDS[command])
    await process.says(b"ready")
    job_id = ""
    async with JobService(config) as service:
        if command in WORKERS:
            job_id = await service.submit("sleep", 1, max_attempts=1, priority="high")
            await eventually(lambda: is_processing(service, job_id))
        process.process.send_signal(signal.SIGHUP)
        process.read_no_more()
        await asyncio.sleep(0.1)
        if process.process.returncode is None:
            process.process.send_signal(signal.SIGHUP)  # by the shell, and by the system
        assert await process.ends() == 0
        if job_id:
            assert await service.result(job_id, timeout=1) == "slept"


@each(["worker", "processes", "dev", "router"])
async def test_an_ignored_hangup_stays_ignored_as_nohup_wants_it(
    cli: Cli, config: JobService.Config, command: str
) -> None:
    process = await start(cli, sys.executable, "-c", IGNORES_HANGUPS, JSJOBS, *COMMANDS[command])
    await process.says(b"ready")
    process.process.send_signal(signal.SIGHUP)
    if command != "router":
        async with JobService(config) as service:
            assert await service.result(await service.submit("sleep", 0.3, priority="high"), timeout=20) == "slept"
    assert process.process.returncode is None
    process.process.terminate()
    assert await process.ends() == 0
    process.read_no_more()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_a_worker_whose_streams_are_closed_runs_jobs_and_stops(
    cli: Cli, config: JobService.Config, closed: str
) -> None:
    worker = await start(cli, "/bin/sh", "-c", f'exec "$0" "$@" {closed}', JSJOBS, *COMMANDS["worker"])
    async with JobService(config) as service:
        failed = await service.submit("fail", 1, max_attempts=1)
        with pytest.raises(JobService.Error, match="no good"):
            await service.result(failed, timeout=20)
    worker.process.terminate()
    assert await worker.ends() == 0
    worker.read_no_more()
