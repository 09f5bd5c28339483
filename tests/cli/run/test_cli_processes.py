"""`jsjobs worker --processes N`: a supervisor and its processes."""

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_process import Cli, Process
from http_probe import health_of

from facts import eventually, is_processing
from jsjobs import JobService

APP = """
import asyncio, os, time
from jsjobs import JobService

jobs = JobService()

@jobs.handler("who")
async def who(seconds: float):
    await asyncio.sleep(seconds)
    return [os.getpid(), os.getppid(), type(asyncio.get_running_loop()).__module__]

@jobs.handler("block")
async def block(seconds: float):
    time.sleep(seconds)
"""
UP = " processes running; SIGTERM and Ctrl-C stop them all"


@pytest.fixture
async def pool(cli: Cli) -> AsyncIterator[Cli]:
    """The command and an application; no process of a test outlives it."""
    (cli.folder / "app.py").write_text(APP)
    yield cli
    for process in cli.processes:
        for pid in children(process.child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(each) for each in found]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def started(pool: Cli, count: int, *arguments: str, **env: str) -> Process:
    process = await pool.start("worker", "app:jobs", "--processes", str(count), *arguments, **env)
    await process.says(f"{count}{UP}")
    assert len(children(process.child.pid)) == count
    return process


async def test_jobs_run_in_all_processes_and_sigterm_drains_them(pool: Cli, config: JobService.Config) -> None:
    worker = await started(pool, 3, "--concurrency", "1")
    pids = set(children(worker.child.pid))
    async with JobService(config) as service:
        ids = [await service.submit("who", 1.0, priority=p, entity="e") for p in ("critical", "high", "normal")]
        for job_id in ids:
            await eventually(lambda job_id=job_id: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        ended = await worker.ends()
        assert ended.code == 0, ended.err
        results = [await service.result(job_id, timeout=1) for job_id in ids]
    assert {pid for pid, _, _ in results} == pids, "one job in each"
    assert {parent for _, parent, _ in results} == {worker.child.pid}
    assert {loop for _, _, loop in results} == {"uvloop"}
    assert not any(map(is_alive, pids))
    assert ended.err.count("ready: namespace") == 1
    assert ended.err.count("worker and router ready") == 1


async def test_a_process_that_dies_is_back_and_its_job_is_taken_over(pool: Cli, config: JobService.Config) -> None:
    worker = await started(pool, 2, "--concurrency", "1")
    async with JobService(config) as service:
        job_id = await service.submit("who", 1.2, priority="high")
        await eventually(lambda: is_processing(service, job_id))
        name = (await service.status(job_id)).worker
        assert name is not None
        killed = int(name.split("-")[-2])
        assert killed in children(worker.child.pid)
        os.kill(killed, signal.SIGKILL)
        await worker.says(f"(pid {killed}) was killed by SIGKILL; restarting it in 0.5 s")
        pid, _, _ = await service.result(job_id, timeout=30)
        assert pid != killed
        await eventually(lambda: len(children(worker.child.pid)) == 2)
        assert (await service.status(job_id)).attempts == 2
    worker.signal(signal.SIGINT)
    ended = await worker.ends()
    assert ended.code == 0, ended.err


async def test_the_first_process_comes_back_with_its_router(pool: Cli, config: JobService.Config) -> None:
    worker = await started(pool, 2)
    for pid in children(worker.child.pid):
        os.kill(pid, signal.SIGKILL)
    await worker.says("process 1 (pid")
    worker.said = re.sub("worker and router ready", "", worker.said)
    await worker.says("worker and router ready: namespace")
    await eventually(lambda: len(children(worker.child.pid)) == 2)
    async with JobService(config) as service:
        job_id = await service.submit("unknown", 1)
        await eventually(lambda: has_letter(service, job_id))
    worker.signal(signal.SIGTERM)
    assert (await worker.ends()).code == 0


async def test_a_second_signal_stops_at_once(pool: Cli, config: JobService.Config) -> None:
    worker = await started(pool, 2, JSJOBS_GRACE="60")
    async with JobService(config) as service:
        job_id = await service.submit("who", 60, duration="long")
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGINT)
        await worker.says("stopping: waiting for 1 running job")
        worker.signal(signal.SIGINT)
        ended = await worker.ends(within=30)  # half of the grace time
        assert ended.code == 0, ended.err
        assert (await service.status(job_id)).status == "queued"


async def test_no_process_outlives_a_killed_supervisor_and_jobs_end_in_good_order(
    pool: Cli, config: JobService.Config
) -> None:
    worker = await started(pool, 3)
    pids = children(worker.child.pid)
    async with JobService(config) as service:
        short, long = (
            await service.submit("who", 1.0, priority="high"),
            await service.submit("who", 60, duration="long"),
        )
        for job_id in (short, long):
            await eventually(lambda job_id=job_id: is_processing(service, job_id))
        os.kill(worker.child.pid, signal.SIGKILL)
        await eventually(lambda: not any(map(is_alive, pids)))
        assert (await service.result(short, timeout=1))[0] in pids
        assert (await service.status(long)).status == "queued"


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [("import nothing_like_this\n", "nothing_like_this", 1), ("jobs = 5\n", "is a int, not a JobService", 2)],
)
async def test_an_application_that_cannot_run_is_said_once(pool: Cli, text: str, said: str, code: int) -> None:
    (pool.folder / "broken.py").write_text(text)
    ended = await pool.run("worker", "broken:jobs", "--processes", "4")
    assert ended.code == code
    assert ended.err.count("error: ") == 1, ended.err
    assert said in ended.err


async def test_one_that_dies_while_it_is_loaded_is_given_up(pool: Cli) -> None:
    (pool.folder / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    ended = await pool.run("worker", "deadly:jobs", "--processes", "4")
    assert ended.code == 1
    lines = ended.err.splitlines()
    assert lines[-1].startswith("error: no process could be started: 3 times in a row it (pid "), ended.err
    assert lines[-1].endswith("was killed by SIGKILL")


async def test_without_nats_it_is_said_once(bare_cli: Cli) -> None:
    ended = await bare_cli.run(
        "worker", "app:jobs", "--processes", "3", NATS_URL="nats://127.0.0.1:9", JSJOBS_TIMEOUT="0.3"
    )
    assert ended.code == 1
    assert ended.err.count("error: cannot reach NATS") == 1
    missing = await bare_cli.run("worker", "nothing_here:jobs", "--processes", "3")
    assert (missing.code, missing.err.count("error: ")) == (2, 1)


@pytest.mark.long
async def test_one_port_tells_how_all_are(pool: Cli, config: JobService.Config) -> None:
    worker = await pool.start("worker", "app:jobs", "--processes", "2", "--health-port", "0", JSJOBS_ACK_WAIT="5")
    health = await health_of(worker)
    await worker.says(UP)
    await eventually(lambda: health.says("/ready", 200))
    assert await health.ask("/ready") == (200, {"status": "ready", "reasons": [], "notes": []})
    assert await health.ask("/live") == (200, {"status": "live", "reasons": []})
    async with JobService(config) as service:
        blocking = await service.submit("block", 8, max_attempts=1)
        await eventually(lambda: is_processing(service, blocking))
        blocked = int(str((await service.status(blocking)).worker).split("-")[-2])
        said = "the event loop has not answered for"
        await eventually(lambda: health.says("/live", 503, said))
        _, body = await health.ask("/live")
        assert re.match(r"process [12]: the event loop", body["reasons"][0])
        assert await health.says("/ready", 503, said)
        os.kill(blocked, signal.SIGKILL)
        await eventually(lambda: health.says("/ready", 503, "being started again"))
        assert await health.says("/live", 200)
        await eventually(lambda: health.says("/ready", 200))
        job_id = await service.submit("who", 1.5, priority="high")
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        await eventually(lambda: health.says("/ready", 503, "stopping"))
        assert await health.says("/live", 200)
        assert (await worker.ends()).code == 0


async def test_logs_of_processes_go_through_as_they_are(pool: Cli) -> None:
    worker = await pool.start("worker", "app:jobs", "--processes", "2", "--log-format", "json", "-v")
    await worker.says(UP)
    os.kill(children(worker.child.pid)[1], signal.SIGKILL)
    await worker.says("restarting it in 0.5 s")
    worker.signal(signal.SIGTERM)
    ended = await worker.ends()
    assert ended.code == 0
    assert all(line.startswith("{") and line.endswith("}") for line in ended.err.splitlines()), ended.err


async def has_letter(service: JobService, job_id: str) -> bool:
    return any(letter.original_job_id == job_id for letter in await service.dlq.list())


@pytest.mark.long
async def test_one_that_hangs_is_killed_after_the_second_signal(pool: Cli, config: JobService.Config) -> None:
    worker = await started(pool, 2, JSJOBS_GRACE="60")
    async with JobService(config) as service:
        job_id = await service.submit("block", 100, max_attempts=1)
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        await eventually(lambda: len(children(worker.child.pid)) == 1)
        worker.signal(signal.SIGTERM)
        ended = await worker.ends(within=12)
    assert ended.code == 0
    assert "did not stop and is killed; its jobs are delivered again after ack_wait" in ended.err


async def test_without_a_database_it_is_said_once(pool: Cli) -> None:
    del pool.env["JSJOBS_DATABASE_URL"]
    worker = await started(pool, 2)
    worker.signal(signal.SIGTERM)
    ended = await worker.ends()
    assert (ended.code, ended.err.count("no DATABASE_URL is set")) == (0, 1)
