"""What a handler raises does not stop the worker; what a person or a system asks for does."""

import signal
from collections.abc import Callable

import pytest
from cli_process import Cli

from facts import eventually, is_processing
from jsjobs import JobService

APP = """
import asyncio, sys
from jsjobs import JobService

jobs = JobService()

async def raises(error):
    raise error

@jobs.handler("sleep")
async def sleep(seconds: float):
    await asyncio.sleep(seconds)
    return "slept"

@jobs.handler("raise-async")
async def raise_async(payload):
    raise KeyboardInterrupt

@jobs.handler("raise-plain")
def raise_plain(payload):
    raise KeyboardInterrupt

@jobs.handler("task-exits")
async def task_exits(payload):
    await asyncio.gather(raises(SystemExit(4)))

@jobs.handler("task-interrupts")
async def task_interrupts(payload):
    asyncio.ensure_future(raises(KeyboardInterrupt("from a task")))
    await asyncio.sleep(0.05)
    raise ValueError("it went on")

@jobs.handler("callback-exits")
async def callback_exits(payload):
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(0.05)
    raise ValueError("it went on")

@jobs.handler("stops-loop")
async def stops_loop(payload):
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)
    raise ValueError("it went on")
"""

ENDS = {
    "raise-async": "KeyboardInterrupt",
    "raise-plain": "KeyboardInterrupt",
    "task-exits": "SystemExit: 4",
    "task-interrupts": "ValueError: it went on",
    "callback-exits": "ValueError: it went on",
    "stops-loop": "ValueError: it went on",
}


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=30)


@pytest.mark.parametrize("processes", [None, 1])
async def test_handlers_that_raise_what_ends_programs_stop_no_worker_and_a_signal_does(
    cli: Cli, config: JobService.Config, processes: int | None
) -> None:
    (cli.folder / "app.py").write_text(APP)
    worker = await cli.worker(*([] if processes is None else ["--processes", str(processes)]), JSJOBS_GRACE="20")
    async with JobService(config) as service:
        other = await service.submit("sleep", 3, priority="high", max_attempts=1)
        await eventually(lambda: is_processing(service, other))
        for job_type, error in ENDS.items():
            job_id = await service.submit(job_type, 1, max_attempts=1)
            with pytest.raises(JobService.Error, match=error):
                await service.result(job_id, timeout=10)
            assert (await service.status(job_id)).attempts == 1
        worker.signal(signal.SIGINT)
        ended = await worker.ends()
        assert ended.code == 0, ended.err
        assert (await service.result(other, timeout=1), (await service.status(other)).attempts) == ("slept", 1)
