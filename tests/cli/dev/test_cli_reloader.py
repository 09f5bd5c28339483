"""`jsjobs dev` loads its application again when it changes, and keeps its servers."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from cli_process import Cli, Process

from facts import eventually
from jsjobs import JobService

APP = """
import asyncio, os, time
from jsjobs import JobService

jobs = JobService()

@jobs.handler("version")
async def version(payload):
    return VERSION

@jobs.handler("pid")
async def pid(payload):
    return os.getpid()

@jobs.handler("sleep")
async def sleep(seconds: float, ctx: JobService.Context):
    await asyncio.sleep(seconds if ctx.attempt == 1 else 0.1)
    return VERSION

@jobs.handler("leave")
def leave(code: int):
    os._exit(code)

@jobs.handler("block")
async def block(seconds: float):
    time.sleep(seconds)
"""
LATE = """
VERSION = None

@jobs.handler("late")
def late(payload):
    from deep.late import NAME

    return NAME
"""
READY = "worker and router ready: namespace"


class Dev:
    """A running `jsjobs dev` and its application's file."""

    def __init__(self, cli: Cli, process: Process, service: JobService) -> None:
        self.cli = cli
        self.process = process
        self.service = service
        self.parent = psutil.Process(process.child.pid)

    def write(self, version: str) -> None:
        (self.cli.folder / "app.py").write_text(f"{APP}\nVERSION = {version}\n")

    async def is_ready_again(self, *said: str) -> None:
        """Wait until it has said these and is ready, all of it after the last time."""
        self.process.said = ""
        for text in (*said, READY):
            await self.process.says(text)

    async def run(self, job_type: str, payload: object = None) -> object:
        return await self.service.result(await self.service.submit(job_type, payload), timeout=20)

    async def started(self, job_type: str, payload: object) -> str:
        """The id of a job that runs now."""
        job_id = await self.service.submit(job_type, payload, duration="long")

        async def runs() -> bool:
            return (await self.service.status(job_id)).status == "processing"

        await eventually(runs)
        return job_id


@pytest.fixture
async def dev(cli: Cli, config: JobService.Config, request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Dev]]:
    """`jsjobs dev` on the tests' servers, in a folder of its own."""
    (cli.folder / "app.py").write_text(f"{APP}\nVERSION = 1\n")
    async with JobService(config) as service:
        process = await cli.start("dev", "app:jobs", **getattr(request, "param", {}))
        await process.says(READY)
        dev = Dev(cli, process, service)
        family = [dev.parent, *dev.parent.children(recursive=True)]
        yield dev
        if dev.parent.is_running():
            family += dev.parent.children(recursive=True)
        await cli.close()
        await eventually(lambda: are_gone(family))


async def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


async def test_a_change_is_loaded_and_a_broken_one_waits_for_the_next(dev: Dev) -> None:
    assert await dev.run("version") == 1
    dev.write(
        "2"
    )  # as long as before, and maybe within the same second: Python's own cache would take it for no change
    await dev.is_ready_again("app.py changed: reloading\n")
    assert await dev.run("version") == 2

    dev.write("no_such_name")
    for text in ("app.py changed: reloading", "error: app cannot be imported: NameError: ", "app.py:", "waiting"):
        await dev.process.says(text)
    assert "Traceback" not in dev.process.said
    waiting = await dev.service.submit("version")
    dev.write("4")
    await dev.is_ready_again()
    assert await dev.service.result(waiting) == 4
    (dev.cli.folder / ".hidden").mkdir()
    (dev.cli.folder / ".hidden" / "tool.py").touch()
    (dev.cli.folder / "data.json").touch()
    dev.write("5")
    await dev.is_ready_again("app.py changed: reloading\n")
    assert dev.process.said.count("reloading") == 1
    dev.process.interrupt()
    ended = await dev.process.ends()
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err


async def test_files_count_that_the_application_imports_and_others_do_not(dev: Dev) -> None:
    folder = dev.cli.folder
    (folder / "deep").mkdir()
    (folder / "deep" / "late.py").write_text("NAME = 1\n")
    (folder / "script.py").write_text("print(1)\n")
    (folder / "app.py").write_text(f"{APP}{LATE}")
    await dev.is_ready_again("app.py changed: reloading\n")
    job_id = await dev.started("sleep", 2)
    (folder / "script.py").write_text("print(2)\n")
    (folder / "deep" / "late.py").write_text("NAME = 2\n")  # which no handler has imported yet
    assert await dev.service.result(job_id, timeout=20) is None
    assert (await dev.service.status(job_id)).attempts == 1
    assert await dev.run("late") == 2

    async def is_reloaded() -> bool:
        # It is told a moment after the import that the file counts from now on.
        (folder / "deep" / "late.py").write_text("NAME = 3\n")
        return await dev.run("late") == 3

    await eventually(is_reloaded)
    await dev.process.says("deep/late.py changed: reloading\n")
    assert dev.process.said.count("reloading") == 2


async def test_what_is_missing_for_an_import_is_waited_for(dev: Dev) -> None:
    (dev.cli.folder / "app.py").write_text(f"{APP}\nfrom missing import VERSION\n")
    await dev.process.says("waiting for a change")
    (dev.cli.folder / "missing.py").write_text("VERSION = 2\n")
    await dev.is_ready_again("missing.py changed: reloading\n")
    assert await dev.run("version") == 2


@pytest.mark.parametrize("dev", [{"JSJOBS_GRACE": "8"}], indirect=True)
async def test_a_running_job_ends_in_the_version_that_began_it(dev: Dev) -> None:
    job_id = await dev.started("sleep", 1.5)
    dev.write("2")
    await dev.is_ready_again("app.py changed: reloading", "waiting for 1 running job")
    status = await dev.service.status(job_id)
    assert (status.status, status.result, status.attempts) == ("complete", 1, 1)
    assert await dev.run("version") == 2


@pytest.mark.parametrize("dev", [{"JSJOBS_GRACE": "0.3"}], indirect=True)
async def test_a_job_that_takes_too_long_is_given_back_and_runs_in_the_new_version(dev: Dev) -> None:
    job_id = await dev.started("sleep", 3)
    dev.write("2")
    await dev.is_ready_again("app.py changed: reloading")
    assert await dev.service.result(job_id, timeout=20) == 2
    assert (await dev.service.status(job_id)).attempts == 1


async def test_an_application_that_dies_comes_back(dev: Dev) -> None:
    first = await dev.run("pid")
    await dev.service.submit("leave", 7, max_attempts=1)
    await dev.is_ready_again("the application ended by itself with exit code 7; restarting it in 0.5 s")
    second = await dev.run("pid")
    os.kill(int(second), signal.SIGKILL)
    await dev.is_ready_again("the application was killed by SIGKILL; restarting it in 1 s")
    assert len({first, second, await dev.run("pid")}) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
async def test_no_application_outlives_its_parent(dev: Dev, number: signal.Signals) -> None:
    child = psutil.Process(int(await dev.run("pid")))
    dev.process.signal(number)
    ended = await dev.process.ends()
    assert ended.code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    await eventually(lambda: are_gone([child]))


@pytest.mark.long
async def test_not_even_a_blocked_application_outlives_a_killed_parent(dev: Dev) -> None:
    child = psutil.Process(int(await dev.run("pid")))
    await dev.started("block", 60)
    dev.process.signal(signal.SIGKILL)
    await dev.process.child.wait()
    await eventually(lambda: are_gone([child]))


@pytest.mark.long
@pytest.mark.parametrize("dev", [{"JSJOBS_GRACE": "60"}], indirect=True)
async def test_a_second_signal_ends_a_blocked_application_too(dev: Dev) -> None:
    await dev.started("block", 60)
    dev.process.interrupt()
    await dev.process.says("the application has not stopped yet; it will be killed in 72 s")
    dev.process.interrupt()
    ended = await dev.process.ends(within=20)
    assert ended.code == 0, ended.err
    assert "the application did not stop and is killed" in ended.err


async def test_a_version_that_is_broken_from_the_begin_can_be_mended(cli: Cli) -> None:
    file = cli.folder / "app.py"
    file.write_text("import no_such_module\n")
    dev = await cli.start("dev", "app:jobs")
    await dev.says("error: app cannot be imported: ModuleNotFoundError: No module named 'no_such_module'")
    await dev.says("waiting for a change")
    file.write_text(f"{APP}\nVERSION = 1\n")
    await dev.says(READY)
    done = await cli.run("submit", "version", "null", "--wait")
    assert (done.code, json.loads(done.out)) == (0, 1)
    dev.signal(signal.SIGTERM)
    assert (await dev.ends()).code == 0


async def test_wrong_use_ends_it(cli: Cli) -> None:
    (cli.folder / "empty.py").write_text("from jsjobs import JobService\njobs = JobService()\n")
    for target, said in (("empty:jobs", "has no handlers"), ("app:job", "did you mean app:jobs?")):
        ended = await cli.run("dev", target)
        assert ended.code == 2
        assert said in ended.err.splitlines()[-1]


async def test_an_application_elsewhere_is_watched_too(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("elsewhere")
    (folder / "far.py").write_text(f"{APP}\nVERSION = 1\n")
    dev = await cli.start("dev", f"{folder / 'far.py'}:jobs")
    await dev.says(READY)
    (folder / "far.py").write_text(f"{APP}\nVERSION = 2\n")
    await dev.says(f"{folder / 'far.py'} changed: reloading")
    dev.interrupt()
    assert (await dev.ends()).code == 0
