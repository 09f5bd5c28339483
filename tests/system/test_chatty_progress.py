"""A handler that reports ten thousand times a second slows neither its worker nor other jobs."""

import asyncio
import time

import pytest

from jsjobs import JobService

SECONDS = 2.0
PER_SECOND = 10_000


def chat(ctx: JobService.Context, begun: float, number: int) -> int:
    """Report as often as is due by now."""
    due = int((time.monotonic() - begun) * PER_SECOND)
    while number < due:
        number += 1
        ctx.report_progress(min(99.0, number / SECONDS / PER_SECOND * 100), f"report {number}")
    return number


@pytest.mark.parametrize("kind", ["chatty.task", "chatty.thread"])
async def test_ten_thousand_reports_a_second(jobs: JobService, kind: str) -> None:
    @jobs.handler("chatty.task")
    async def chatty_task(payload: object, ctx: JobService.Context) -> int:
        begun, number = time.monotonic(), 0
        while time.monotonic() - begun < SECONDS:
            number = chat(ctx, begun, number)
            await asyncio.sleep(0.001)
        ctx.report_progress(100, "the last")
        return number

    @jobs.handler("chatty.thread")
    def chatty_thread(payload: object, ctx: JobService.Context) -> int:
        begun, number = time.monotonic(), 0
        while time.monotonic() - begun < SECONDS:
            number = chat(ctx, begun, number)
            time.sleep(0.001)
        ctx.report_progress(100, "the last")
        return number

    @jobs.handler("quick")
    async def quick(payload: int) -> int:
        return payload

    async with jobs.worker():
        await jobs.result(await jobs.submit("quick", 0))
        chatting = await jobs.submit(kind, priority="high", duration="long")
        following = asyncio.ensure_future(collect(jobs, chatting))
        others = 0
        while not following.done():
            await jobs.result(await jobs.submit("quick", others, entity=f"e{others}"))
            others += 1
        reports = await jobs.result(chatting)
        updates = await following
    assert reports > PER_SECOND * SECONDS / 2, "or it shows nothing"
    assert updates[-1] == "the last"
    assert 5 < len(updates) < 20 * SECONDS * 1.5 + 5
    assert others > 20, "other jobs went on beside it"


async def collect(jobs: JobService, job_id: str) -> list[str | None]:
    return [update.message async for update in jobs.progress(job_id)]
