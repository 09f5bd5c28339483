"""Runs jobs with telemetry off, and counts every call into `jsjobs.telemetry` on the way, in every thread."""

import asyncio
import json
import sys
import threading
from types import FrameType
from typing import Any

from jsjobs import JobService

JOBS = 1000
calls: list[str] = []


def count(frame: FrameType, event: str, _: Any) -> None:
    if event == "call" and "/jsjobs/telemetry/" in frame.f_code.co_filename:
        calls.append(frame.f_code.co_qualname)


async def main() -> None:
    jobs = JobService()
    ran, finished = 0, asyncio.Event()

    @jobs.handler("note")
    async def note(number: int, ctx: JobService.Context) -> None:
        nonlocal ran
        if number % 100 == 0 and ctx.attempt == 1:
            raise ValueError("once more")
        ran += 1
        if ran == JOBS:
            finished.set()

    @jobs.handler("plain")
    def plain(number: int) -> None:
        """In a thread."""

    threading.setprofile(count)
    sys.setprofile(count)
    async with jobs, jobs.worker(), jobs.router():
        at_start = len(calls)
        await jobs.submit("note", list(range(JOBS)), entity=None)
        await jobs.result(await jobs.submit("plain", 1))
        await finished.wait()
        on_the_way = calls[at_start:]
    sys.setprofile(None)
    told = {"ran": ran, "at_start": at_start, "on_the_way": on_the_way}
    print(json.dumps({**told, "imported": "opentelemetry" in sys.modules}))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    asyncio.run(main())
