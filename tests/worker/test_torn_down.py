"""A program that ends without stopping its worker ends all the same, whatever its handlers were doing."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bare_environment import bare_environment
from jsjobs import JobService

PROGRAM = """
import asyncio, sys
from jsjobs import JobService

jobs = JobService()
begun, cleans_up = asyncio.Event(), asyncio.Event()

@jobs.handler("sleep")
async def sleep(payload):
    begun.set()
    try:
        await asyncio.sleep(60)
    finally:
        cleans_up.set()
        await asyncio.sleep(60)

def leave():
    raise SystemExit(5)

async def stop_worker():
    await jobs.connect()
    worker = jobs.worker()
    await worker.start()
    print(await jobs.submit("sleep", 1), flush=True)
    await begun.wait()
    return asyncio.create_task(worker.stop(0))
"""
RAISES = """
async def main():
    stopping = await stop_worker()
    await cleans_up.wait()
    leave()
"""
IS_CANCELLED = """
async def main():
    stopping = await stop_worker()
    await cleans_up.wait()
    asyncio.get_running_loop().call_soon(leave)
    await stopping
"""


@pytest.mark.parametrize("main", [RAISES, IS_CANCELLED], ids=["raises", "is cancelled"])
async def test_a_handler_that_was_asked_to_stop_does_not_hold_up_the_end_of_the_loop(
    jobs: JobService, config: JobService.Config, tmp_path: Path, main: str
) -> None:
    """Its connection is open still; whether the job's release is written before the end depends on who is faster."""
    env = bare_environment() | {"JSJOBS_NATS_URL": config.nats_url, "JSJOBS_NAMESPACE": config.namespace}
    path = tmp_path / "program.py"
    path.write_text(f"{PROGRAM}{main}\nasyncio.run(main())\n")
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, path], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 5
    job_id = done.stdout.strip()
    assert (await jobs.status(job_id)).status in {"processing", "queued"}
    jobs.register_handler("sleep", lambda _: "again")
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "again"
