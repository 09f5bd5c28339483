"""A handler that reports ten thousand times a second slows neither its worker nor other jobs."""

import asyncio
import time
from typing import NamedTuple

import pytest

from jsjobs import JobService

SECONDS = 2.0
PER_SECOND = 10_000


class Reports(NamedTuple):
    made: int
    messages: list[str | None]
    beside: int
    """Other jobs that went on meanwhile."""
    took: float


def chat(ctx: JobService.Context, begun: float, number: int, *, loud: bool) -> int:
    """Report as often as is due by now."""
    due = int((time.monotonic() - begun) * PER_SECOND)
    while number < due:
        number += 1
        if loud:
            ctx.report_progress(min(99.0, number / SECONDS / PER_SECOND * 100), f"report {number}")
    return number


@pytest.mark.parametrize("kind", ["chatty.task", "chatty.thread"])
async def test_ten_thousand_reports_a_second(jobs: JobService, kind: str) -> None:
    @jobs.handler("chatty.task")
    async def chatty_task(loud: bool, ctx: JobService.Context) -> int:
        begun, number = time.monotonic(), 0
        while time.monotonic() - begun < SECONDS:
            number = chat(ctx, begun, number, loud=loud)
            await asyncio.sleep(0.001)
        ctx.report_progress(100, "the last")
        return number

    @jobs.handler("chatty.thread")
    def chatty_thread(loud: bool, ctx: JobService.Context) -> int:
        begun, number = time.monotonic(), 0
        while time.monotonic() - begun < SECONDS:
            number = chat(ctx, begun, number, loud=loud)
            time.sleep(0.001)
        ctx.report_progress(100, "the last")
        return number

    @jobs.handler("quick")
    async def quick(payload: int) -> int:
        return payload

    async with jobs.worker():
        await jobs.result(await jobs.submit("quick", 0))
        silent, chatty = await reports(jobs, kind, loud=False), await reports(jobs, kind, loud=True)
    assert silent.messages == ["the last"]
    assert chatty.messages[-1] == "the last"
    assert 5 < len(chatty.messages) < 20 * chatty.took * 1.5 + 5
    assert chatty.made > 20 * len(chatty.messages), "or nothing was joined"
    assert chatty.beside > silent.beside / 10, "other jobs went on beside it"


async def reports(jobs: JobService, kind: str, *, loud: bool) -> Reports:
    begun = time.monotonic()
    chatting = await jobs.submit(kind, loud, priority="high", duration="long")
    following = asyncio.ensure_future(collect(jobs, chatting))
    others = 0
    while not following.done():
        await jobs.result(await jobs.submit("quick", others, entity=f"e{others}"))
        others += 1
    took = time.monotonic() - begun
    return Reports(await jobs.result(chatting), await following, others, took)


async def collect(jobs: JobService, job_id: str) -> list[str | None]:
    return [update.message async for update in jobs.progress(job_id)]
