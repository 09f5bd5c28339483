"""A worker, or a dead-letter router, in a process of its own that tests may kill.

It takes its settings from the environment like any other, and writes what its handlers see into the file `JOURNAL`,
one JSON object a line, each with one write.
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from jsjobs import JobService

journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event: str, ctx: JobService.Context | None = None, **more: Any) -> None:
    line: dict[str, Any] = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **more}
    if ctx is not None:
        line |= {"job": ctx.job_id, "attempt": ctx.attempt, "entity": ctx.entity}
    os.write(journal, json.dumps(line).encode() + b"\n")


def register(jobs: JobService) -> None:
    @jobs.handler("step")
    async def step(payload: dict[str, Any], ctx: JobService.Context) -> None:
        note("start", ctx, n=payload["n"])
        try:
            await asyncio.sleep(payload.get("seconds", 0.002) if ctx.attempt == 1 else 0.002)
            if ctx.attempt <= payload.get("fails", 0):
                raise RuntimeError(f"attempt {ctx.attempt} fails")
        finally:
            note("end", ctx, n=payload["n"])

    @jobs.handler("hang")
    async def hang(payload: Any, ctx: JobService.Context) -> None:
        note("start", ctx)
        try:
            await asyncio.sleep(60)
        finally:
            note("end", ctx)

    @jobs.handler("suicide")
    async def suicide(payload: Any, ctx: JobService.Context) -> None:
        note("start", ctx)
        os._exit(9)

    @jobs.handler("dies")
    async def dies(payload: Any) -> None:
        raise JobService.Error.from_validation("it shall die")


async def main(role: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    jobs = JobService()
    register(jobs)
    async with jobs, jobs.worker() if role == "worker" else jobs.router():
        note("ready")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
