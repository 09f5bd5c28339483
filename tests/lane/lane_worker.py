"""A worker in a process of its own that tests may kill; it notes what its handlers do in the file `JOURNAL`."""

import asyncio
import json
import os
import signal
import time
from typing import Any

from jsjobs import JobService

journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event: str, **more: Any) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **more}
    os.write(journal, json.dumps(line).encode() + b"\n")


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    jobs = JobService()

    @jobs.handler("sleep")
    async def sleep(payload: float, ctx: JobService.Context) -> int:
        note("start", job=ctx.job_id, attempt=ctx.attempt)
        await asyncio.sleep(payload if ctx.attempt == 1 else 0.01)
        note("end", job=ctx.job_id, attempt=ctx.attempt)
        return ctx.attempt

    @jobs.handler("poison")
    async def poison(payload: Any, ctx: JobService.Context) -> None:
        note("start", job=ctx.job_id, attempt=ctx.attempt)
        os._exit(9)

    async with jobs, jobs.worker():
        note("ready")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
