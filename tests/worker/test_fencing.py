"""A worker that lost its job cannot end it, and sends nothing more on that delivery."""

import asyncio
from collections.abc import Callable

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.delivery import Delivery


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


async def test_a_stalled_worker_cannot_complete_what_another_took(config, deploy, monkeypatch) -> None:
    await deploy(config)
    stalled, other = JobService(config), JobService(config)
    at_work, go_on = asyncio.Event(), asyncio.Event()
    fences, answers = [], []

    async def first(payload: object, ctx: JobService.Context) -> str:
        fences.append(ctx.fence)
        at_work.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            await go_on.wait()  # a handler that will not be stopped
        return "too late"

    async def second(payload: object, ctx: JobService.Context) -> str:
        fences.append(ctx.fence)
        return "in time"

    stalled.register_handler("t", first)
    other.register_handler("t", second)
    answer = Delivery._answer

    def recording(delivery: Delivery, data: bytes) -> None:
        if delivery._connection is stalled._connection:
            answers.append(data)
        answer(delivery, data)

    async def never_renewed(delivery: Delivery, timeout: float) -> None:
        """The process is frozen: no heartbeat leaves it."""
        if delivery._connection is other._connection:
            await delivery._connection.ask(delivery.reply, b"+WPI", timeout=timeout)

    monkeypatch.setattr(Delivery, "_answer", recording)
    monkeypatch.setattr(Delivery, "renew", never_renewed)
    async with stalled, other:
        job_id = await other.submit("t", {}, priority="low")
        async with stalled.worker() as frozen:
            await at_work.wait()
            await frozen.drop(next(shard for shard in frozen.taken if shard.consumer == "low-1x1-0"))
            async with other.worker():
                assert await other.result(job_id) == "in time"
                go_on.set()
                await eventually(lambda: nothing_runs(frozen))
        status = await other.status(job_id)
    assert (status.status, status.result, status.attempts) == ("complete", "in time", 2)
    assert answers == []
    assert fences[1] > fences[0]


async def nothing_runs(worker) -> bool:
    return worker.running == 0


async def test_a_long_job_outlives_ack_wait_and_is_run_once(jobs, config) -> None:
    runs = 0

    @jobs.handler("t")
    async def slow(payload: object) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(config.ack_wait * 2.5)
        return "done"

    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    assert (runs, (await jobs.status(job_id)).attempts) == (1, 1)


async def test_a_long_job_whose_entry_another_wrote_is_interrupted(jobs, config) -> None:
    at_work, interrupted = asyncio.Event(), asyncio.Event()

    @jobs.handler("t")
    async def slow(payload: object) -> str:
        at_work.set()
        try:
            await asyncio.sleep(60)
        finally:
            interrupted.set()
        return "never"

    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker() as worker:
        await at_work.wait()
        found = await worker._state.read(job_id)
        cancelled = found.entry.cancelled(found.entry.created_at)
        await worker._state.write(cancelled, expected=found.revision, ttl=3600)
        async with asyncio.timeout(10):
            await interrupted.wait()
        await eventually(lambda: nothing_runs(worker))
    assert (await jobs.status(job_id)).status == "cancelled"


async def test_a_delivery_of_a_job_that_still_runs_here_ends_the_old_handler_first(jobs, config, monkeypatch) -> None:
    running, most, runs = 0, 0, 0

    @jobs.handler("t")
    async def handler(payload: object) -> str:
        nonlocal running, most, runs
        runs, running = runs + 1, running + 1
        most = max(most, running)
        try:
            if runs == 1:
                await asyncio.sleep(60)
        finally:
            running -= 1
        return "done"

    async def lost(delivery: Delivery, timeout: float) -> None:
        """The server never hears the heartbeat, the worker believes it did."""

    monkeypatch.setattr(Delivery, "renew", lost)
    monkeypatch.setattr(Delivery, "age", lambda _: 0.0)
    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    assert (runs, most, (await jobs.status(job_id)).attempts) == (2, 1, 2)
