"""Jobs whose handlers run in processes, on real servers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import process_handlers as handlers
from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService
from process_runs import all_ended, is_running, text_of

MakeConfig = Callable[..., JobService.Config]
Deploy = Callable[[JobService.Config], Awaitable[None]]


def register(jobs: JobService, *functions) -> None:
    for function in functions:
        jobs.register_handler(function.__name__, function, run_in="process", retry=JobService.Retry(initial=0.05))


async def test_a_process_that_dies_harms_no_other_job(settings_of: MakeConfig, deploy: Deploy, tmp_path: Path) -> None:
    config = settings_of(scale=4, processes=4, ack_wait=4)
    await deploy(config)
    async with JobService(config) as jobs:
        register(jobs, handlers.spin, handlers.die, handlers.die_once)
        async with jobs.worker():
            beside = [await jobs.submit("spin", 1.5, entity=f"e{n}", priority="high") for n in range(6)]
            deaths = [
                await jobs.submit("die", how, entity=how, priority="critical", max_attempts=2)
                for how in ("SIGKILL", "7", "segfault")
            ]
            flaky = await jobs.submit("die_once", str(tmp_path / "died"), max_attempts=2)
            for job_id in beside:
                await jobs.result(job_id, timeout=60)
                assert (await jobs.status(job_id)).attempts == 1
            assert await jobs.result(flaky, timeout=60) == "second"
            for job_id, text in zip(deaths, ("killed by SIGKILL", "exit code 7", "killed by SIGSEGV"), strict=True):
                with pytest.raises(JobService.Error, match=f"the process of the handler died: .*{text}"):
                    await jobs.result(job_id, timeout=60)
                status = await jobs.status(job_id)
                assert (status.status, status.error_reason, status.attempts) == ("failed", "MaxRetries", 2)
        history = (await jobs.status(flaky)).history
    assert [item.status for item in history] == ["processing", "queued", "processing", "complete"]
    assert "exit code 9" in (history[1].error or "")


@pytest.mark.long
async def test_leases_hold_while_processes_burn_all_processors(settings_of: MakeConfig, deploy: Deploy) -> None:
    config = settings_of(scale=4, processes=(os.cpu_count() or 1) + 1, ack_wait=2)
    await deploy(config)
    async with JobService(config) as jobs:
        register(jobs, handlers.spin)

        @jobs.handler("patient")
        async def patient(payload: float) -> float:
            await asyncio.sleep(payload)
            return payload

        async with jobs.worker():
            long = await jobs.submit("patient", 5, priority="low", duration="long")
            burning = [
                await jobs.submit("spin", 5, entity=f"e{n}", priority="high", duration="long")
                for n in range(config.processes)
            ]
            for job_id in (long, *burning):
                await jobs.result(job_id, timeout=60)
                assert (await jobs.status(job_id)).attempts == 1


@pytest.mark.long
async def test_short_jobs_wait_for_a_process_longer_than_they_may_run(settings_of: MakeConfig, deploy: Deploy) -> None:
    config = settings_of(scale=4, processes=1, ack_wait=2)
    await deploy(config)
    async with JobService(config) as jobs:
        register(jobs, handlers.spin)
        async with jobs.worker():
            ids = [await jobs.submit("spin", 0.4, entity=f"e{n}", priority="critical") for n in range(12)]
            pids = {await jobs.result(job_id, timeout=60) for job_id in ids}
            assert len(pids) == 1
            assert {(await jobs.status(job_id)).attempts for job_id in ids} == {1}


async def test_cancel_ends_the_process_and_the_shard_goes_on(jobs: JobService, tmp_path: Path) -> None:
    register(jobs, handlers.write_and_spin, handlers.pid)
    async with jobs.worker():
        path = tmp_path / "pid"
        job_id = await jobs.submit("write_and_spin", str(path), entity="e", duration="long")
        after = await jobs.submit("pid", None, entity="e")
        pid = int(await text_of(path))
        await jobs.cancel(job_id)
        assert not is_running(pid)
        assert (await jobs.status(job_id)).status == "cancelled"
        assert await jobs.result(after, timeout=30) != pid


async def test_a_time_limit_ends_the_process(jobs: JobService, tmp_path: Path) -> None:
    register(jobs, handlers.write_and_spin)
    async with jobs.worker():
        path = tmp_path / "pid"
        job_id = await jobs.submit("write_and_spin", str(path), timeout=0.5, max_attempts=1)
        with pytest.raises(JobService.Error, match=r"Timeout: the handler ran longer than 0\.5 s"):
            await jobs.result(job_id, timeout=30)
    assert not is_running(int(path.read_text()))


async def test_a_worker_that_stops_gives_the_job_back_unharmed(jobs: JobService, tmp_path: Path) -> None:
    register(jobs, handlers.write_and_spin)
    path = tmp_path / "pid"
    async with jobs.worker() as worker:
        job_id = await jobs.submit("write_and_spin", str(path), duration="long", max_attempts=1)
        pid = int(await text_of(path))
        await worker.stop(0)
    assert not is_running(pid)
    assert (await jobs.status(job_id)).status == "queued"
    path.unlink()
    async with jobs.worker() as worker:
        assert int(await text_of(path)) != pid
        await jobs.cancel(job_id)


async def test_progress_and_context_reach_both_ways(jobs: JobService) -> None:
    register(jobs, handlers.slow, handlers.tell)
    async with jobs.worker():
        with jobs.request_context(tenant_id="acme", request_id="r-7"):
            slow = await jobs.submit("slow", 0.3)
            tell = await jobs.submit("tell", None, entity="Köln", priority="high")
        updates = [(update.pct, update.message) async for update in jobs.progress(slow)]
        assert await jobs.result(slow) == 1
        told = await jobs.result(tell, timeout=30)
    assert updates == [(10, "begun"), (90, "nearly")]
    assert told["context"].pop("fence") > 0
    assert told["context"].pop("shard") >= 0
    assert told["context"] == {
        "job_id": tell,
        "type": "tell",
        "priority": "high",
        "attempt": 1,
        "entity": "Köln",
        "tenant_id": "acme",
        "request_id": "r-7",
        "batch_id": None,
    }
    assert told["request"]["tenant_id"] == "acme"
    assert told["request"]["job_id"] == tell
    assert told["request"]["within_worker"]


async def test_what_a_process_submits_carries_the_context_on(jobs: JobService) -> None:
    register(jobs, handlers.submit_more, handlers.tell)
    place = {"nats_url": jobs.config.nats_url, "namespace": jobs.config.namespace}
    async with jobs.worker():
        with jobs.request_context(tenant_id="acme", request_id="r-8"):
            first = await jobs.submit("submit_more", place, timeout=1e6, duration="long")
        told = await jobs.result(await jobs.result(first, timeout=30), timeout=30)
    assert (told["context"]["tenant_id"], told["context"]["request_id"]) == ("acme", "r-8")


async def test_bad_payloads_and_results_are_failures_of_their_jobs(jobs: JobService) -> None:
    register(jobs, handlers.add, handlers.result, handlers.fail)
    async with jobs.worker(), JobService(jobs.config) as stranger:  # who submits without knowing the handlers
        for job_type, payload, text in (
            ("add", {"a": "x"}, "the payload of add is invalid"),
            ("result", "object", "the result of result cannot be written as JSON"),
            ("result", "nan", "the result of result"),
            ("result", "large", "cannot be kept"),
            ("fail", "Validation", "as it was asked to"),
        ):
            job_id = await stranger.submit(job_type, payload)
            with pytest.raises(JobService.Error, match=text):
                await jobs.result(job_id, timeout=30)
            status = await jobs.status(job_id)
            assert (status.error_reason, status.attempts) == ("Validation", 1), payload
        assert await jobs.result(await jobs.submit("add", {"a": 2}), timeout=30) == {"a": 3, "b": 1}


def test_what_cannot_run_in_a_process_is_refused() -> None:
    jobs = JobService(JobService.Config())
    with pytest.raises(JobService.Error, match=r"cannot run in a process.*top level of a module"):
        jobs.handler("t", run_in="process")(lambda payload: payload)
    with pytest.raises(JobService.Error, match="must be 'thread' or 'process', not 'fiber'"):
        jobs.handler("t", run_in="fiber")(handlers.add)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="processes"):
        JobService.Config(processes=0)
    assert jobs.types == []


APP = """
import os, time
from jsjobs import JobService
import beside

jobs = JobService()

@jobs.handler("burn", run_in="process")
def burn(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    beside.burn()

@jobs.handler("quick", run_in="process")
def quick(payload: int) -> int:
    return payload + 1
"""
BESIDE = "def burn():\n    while True:\n        pass\n"


@contextmanager
def started(config: JobService.Config, folder: Path) -> Iterator[subprocess.Popen[str]]:
    (folder / "app").mkdir()
    (folder / "app" / "main_app.py").write_text(APP)
    (folder / "app" / "beside.py").write_text(BESIDE)
    env = bare_environment()
    env |= {"JSJOBS_NATS_URL": config.nats_url, "JSJOBS_NAMESPACE": config.namespace, "JSJOBS_GRACE": "30"}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("jsjobs"), "worker", "app/main_app.py:jobs"],
        cwd=folder,
        env=env | {"JSJOBS_PROCESSES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("how", ["two signals", "killed"])
async def test_the_command_lines_worker_runs_a_files_handlers_and_leaves_no_process_behind(
    settings_of: MakeConfig, deploy: Deploy, tmp_path: Path, how: str
) -> None:
    config = settings_of(database_url=None)
    await deploy(config)
    async with JobService(config) as jobs:
        with started(config, tmp_path) as process:
            assert await jobs.result(await jobs.submit("quick", 1), timeout=30) == 2
            path = tmp_path / "pid"
            job_id = await jobs.submit("burn", str(path), duration="long")
            pid = int(await text_of(path))
            if how == "killed":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGINT)  # Ctrl-C: the handler goes on for the grace time

                async def said() -> bool:
                    assert process.stdout is not None
                    return "waiting for 1 running job" in await asyncio.to_thread(process.stdout.readline)

                await eventually(said)
                assert is_running(pid)
                os.killpg(process.pid, signal.SIGINT)
                output = (await asyncio.to_thread(process.communicate))[0]
                assert process.returncode == 0, output
                assert "Traceback" not in output
                assert (await jobs.status(job_id)).status == "queued"
            await all_ended(pid)
