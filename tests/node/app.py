"""The worker that the Node.js tests talk to."""

import asyncio
from typing import Any

from jsjobs import JobService

jobs = JobService()


@jobs.handler("email.send")
@jobs.handler("echo")
async def echo(payload: Any) -> Any:
    return payload


@jobs.handler("steps")
async def steps(count: int, ctx: JobService.Context) -> int:
    for number in range(1, count + 1):
        await ctx.report_progress(100 * number / count, f"step {number}")
        await asyncio.sleep(0.1)  # closer reports would be joined
    return count


@jobs.handler("sleep")
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@jobs.handler("context")
async def context(payload: Any, ctx: JobService.Context) -> dict[str, Any]:
    known = {"entity": ctx.entity, "tenant": ctx.tenant_id, "request_id": ctx.request_id, "lane": ctx.lane}
    return {"payload": payload, **known}


@jobs.handler("needs.replay")
async def needs_replay(payload: Any, ctx: JobService.Context) -> Any:
    if not ctx.job_id.startswith("replay-"):
        raise JobService.Error("Validation", "not before somebody replays it")
    return payload
