"""A worker's start and stop in every phase, and what it must survive in between."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology import generations as generations_module
from jsjobs.model.job import utc_now
from jsjobs.worker import worker as worker_module
from jsjobs.worker.worker import Worker
from taps import Deliveries, begun_runs, recorded_answers


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1.5)


async def test_a_plain_handler_that_raises_stop_iteration_fails_like_any_other(jobs: JobService) -> None:
    @jobs.handler("next")
    def first(payload: list[int]) -> int:
        return next(iter(payload))

    bad = await jobs.submit("next", [[]], priority="low", max_attempts=1)
    good = await jobs.submit("next", [[1]], priority="low")
    async with jobs.worker():
        with pytest.raises(JobService.Error, match="StopIteration"):
            await jobs.result(bad[0], timeout=10)
        assert await jobs.result(good[0], timeout=10) == 1


async def test_a_start_whose_first_look_fails_looks_again(jobs: JobService, monkeypatch) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    live, broken = generations_module.read_live, True

    async def breaking(*args: object) -> object:
        nonlocal broken
        if broken:
            broken = False
            raise ConnectionLost("the connection broke between two questions")
        return await live(*args)

    monkeypatch.setattr(generations_module, "read_live", breaking)
    async with jobs.worker() as worker:
        assert await eventually(lambda: is_ready(worker))
        assert await jobs.result(await jobs.submit("echo", 1)) == 1


async def is_ready(worker) -> bool:
    return worker.ready


async def test_a_start_that_is_cancelled_leaves_nothing_behind(jobs: JobService, monkeypatch) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(generations_module, "read_live", never)
    worker = jobs.worker()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await worker.start()
    monkeypatch.undo()
    assert worker.taken == set()
    async with jobs.worker():
        assert await jobs.result(await jobs.submit("echo", 1)) == 1


async def worker_at_work(jobs: JobService) -> tuple[Worker, str]:
    """A worker whose one job takes half a second, and that job."""
    at_work = asyncio.Event()

    @jobs.handler("slow")
    async def slow(payload: object) -> str:
        at_work.set()
        await asyncio.sleep(0.5)
        return "done"

    job_id = await jobs.submit("slow")
    worker = jobs.worker()
    await worker.start()
    await at_work.wait()
    return worker, job_id


async def test_a_worker_that_stops_is_not_ready(jobs: JobService) -> None:
    worker, _ = await worker_at_work(jobs)
    await eventually(lambda: is_ready(worker))
    stopping = asyncio.ensure_future(worker.stop(5))
    await eventually(lambda: not worker.ready)
    assert worker.why_not_ready == "the worker is stopping"
    await stopping
    assert not worker.ready


async def test_who_stops_a_stopping_worker_waits_for_its_end_too(jobs: JobService) -> None:
    worker, job_id = await worker_at_work(jobs)
    first = asyncio.ensure_future(worker.stop(5))
    await asyncio.sleep(0)
    await worker.stop()
    assert worker.running == 0
    assert (await jobs.status(job_id)).status == "complete"
    await first


async def test_a_stop_that_is_cancelled_goes_on(jobs: JobService) -> None:
    worker, job_id = await worker_at_work(jobs)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await worker.stop(5)
    await worker.stop()
    assert worker.running == 0
    assert (await jobs.status(job_id)).status == "complete"


async def test_a_delivery_too_old_to_be_ours_is_not_given_back_at_a_stop(jobs: JobService, monkeypatch) -> None:
    """It waits for another worker's lease to end; its own was not renewed for too long."""
    answers = recorded_answers(monkeypatch)

    async def lost(delivery: Delivery, timeout: float) -> None:
        raise ConnectionLost("no answer")

    job_id = await jobs.submit("t", priority="low")
    worker = jobs.worker()
    other = (await jobs.status(job_id)).started(utc_now(), "another")
    await state_of(jobs).write(other, expected=0)
    monkeypatch.setattr(Delivery, "renew", lost)
    monkeypatch.setattr(Delivery, "age", lambda _: 1.4)
    async with worker:
        assert await eventually(lambda: has_a_run(worker))
        await asyncio.sleep(0.2)
    assert answers == []


async def has_a_run(worker) -> bool:
    return worker.running == 1


async def test_a_clock_that_is_set_forward_takes_no_lease_from_another(jobs: JobService, monkeypatch) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    job_id = await jobs.submit("echo", 1, priority="low")
    began = time.monotonic()
    await state_of(jobs).write((await jobs.status(job_id)).started(utc_now(), "another"), expected=0)
    monkeypatch.setattr(worker_module, "utc_now", lambda: utc_now() + timedelta(hours=1))
    async with jobs.worker():
        assert await jobs.result(job_id, 20) == 1
    assert time.monotonic() - began >= jobs.config.ack_wait


async def test_a_clock_that_is_set_forward_lets_no_job_expire(jobs: JobService, monkeypatch) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    monkeypatch.setattr(worker_module, "utc_now", lambda: utc_now() + timedelta(hours=1))
    job_id = await jobs.submit("echo", 1, expires=600)
    async with jobs.worker():
        assert await jobs.result(job_id, 20) == 1


async def test_a_delivery_that_was_overtaken_before_it_began_gives_way(jobs: JobService, monkeypatch) -> None:
    """Its handler would run without a heartbeat, and answer in the newer delivery's name."""
    attempts, answers = [], recorded_answers(monkeypatch)

    @jobs.handler("t")
    async def handler(payload: object, ctx: JobService.Context) -> str:
        attempts.append(ctx.attempt)
        return "done"

    write, slow = StateStore.write, True

    async def delayed(state: StateStore, *args, **kwargs) -> int:
        nonlocal slow
        if slow:
            slow = False
            await asyncio.sleep(jobs.config.ack_wait + 0.7)
        return await write(state, *args, **kwargs)

    monkeypatch.setattr(StateStore, "write", delayed)
    job_id = await jobs.submit("t", duration="long", max_attempts=1)
    async with jobs.worker() as worker:
        assert await jobs.result(job_id) == "done"
        await eventually(lambda: nothing_runs(worker))
    assert attempts == [1]
    assert [(answer.attempt, answer.data) for answer in answers] == [(2, b"+ACK")]


async def nothing_runs(worker) -> bool:
    return worker.running == 0


async def test_deliveries_that_piled_up_keep_the_backoff(jobs: JobService, monkeypatch) -> None:
    """A process that stood still for three times `ack_wait` wakes to several deliveries of the job it runs."""
    started: list[float] = []

    async def handler(payload: object, ctx: JobService.Context) -> str:
        started.append(asyncio.get_running_loop().time())
        if ctx.attempt == 1:
            await asyncio.sleep(30)
        if ctx.attempt == 2:
            raise ValueError("again")
        return "done"

    jobs.register_handler("t", handler, retry=JobService.Retry(initial=1, jitter=(1, 1)))
    begun = begun_runs(monkeypatch)
    deliveries = Deliveries(jobs.connection, Names(jobs.config.namespace), monkeypatch)
    job_id = await jobs.submit("t", max_attempts=5, entity="e")
    async with jobs.worker() as worker:
        await eventually(lambda: has_a_run(worker))
        await asyncio.sleep(0.1)
        first = begun[0].delivery
        reply = first.reply  # that of the delivery that the server gave
        for _ in range(3):
            deliveries.repeat(first, reply)
        assert await jobs.result(job_id, timeout=20) == "done"
    assert len(started) == 3
    assert started[2] - started[1] >= 0.9
