"""Handlers of unusual forms on a real server: each runs, or is refused, and none holds up another's job."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, computed_field

from facts import eventually, is_processing
from jsjobs import JobService
from process_handlers import context_first


async def test_a_result_that_takes_long_to_write_holds_up_no_other_job(jobs: JobService) -> None:
    other_has_run, waited = threading.Event(), []

    class Slow(BaseModel):
        @computed_field
        @property
        def waited(self) -> bool:
            waited.append(other_has_run.wait(10))
            return waited[-1]

    @jobs.handler("slow")
    def slow(payload: object) -> Slow:
        return Slow()

    @jobs.handler("other")
    async def other(payload: object) -> None:
        other_has_run.set()

    async with jobs.worker():
        slow_id = await jobs.submit("slow", priority="high")
        await eventually(lambda: is_processing(jobs, slow_id))
        await jobs.result(await jobs.submit("other"), timeout=20)
        assert await jobs.result(slow_id, timeout=20) == {"waited": True}


async def test_a_result_that_is_still_to_be_computed_is_a_dead_letter_at_once(jobs: JobService) -> None:
    @jobs.handler("iterates")
    async def iterates(payload: object) -> object:
        return {"rows": iter([1])}

    async with jobs.worker(), jobs.router():
        job_id = await jobs.submit("iterates")
        letter = await eventually(lambda: jobs.dlq.find(job_id))
    assert (letter.error_reason, letter.attempts) == ("Validation", 1)
    assert "return a list of what it yields" in letter.error_history[0]["error"]


def announced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def test_a_decorated_async_handler_runs_and_is_cancelled_like_another(jobs: JobService) -> None:
    @jobs.handler("add")
    @announced
    async def add(ctx: JobService.Context, payload: list[int]) -> int:
        await asyncio.sleep(60 if not payload else 0)
        return sum(payload) + ctx.attempt

    async with jobs.worker():
        [added] = await jobs.submit("add", [[1, 2]])
        assert await jobs.result(added, timeout=20) == 4
        [endless] = await jobs.submit("add", [[]])
        await eventually(lambda: is_processing(jobs, endless))
        assert (await jobs.cancel(endless)).status == "cancelled"


async def test_a_process_binds_payload_and_context_too(jobs: JobService) -> None:
    jobs.register_handler("first", context_first, run_in="process")
    async with jobs.worker():
        assert await jobs.result(await jobs.submit("first", 20), timeout=30) == 21
