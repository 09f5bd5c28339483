"""A job that sleeps in the parallel lane is woken early."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from lane_runs import left_in

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.errors import AlreadyDue, AlreadyEnded

HOUR = JobService.Retry(initial=3600, jitter=(1, 1), max_backoff=7200)


@pytest.fixture
def began(jobs: JobService) -> list[tuple[str, float]]:
    """When which handler began; both kinds of jobs sleep for an hour after their first attempt."""
    began: list[tuple[str, float]] = []

    @jobs.handler("fails", retry=HOUR)
    async def fails(payload: str, ctx: JobService.Context) -> int:
        began.append((ctx.job_id, time.monotonic()))
        if len([one for one, _ in began if one == ctx.job_id]) == 1:
            raise ValueError("once")
        return ctx.attempt

    @jobs.handler("snoozes")
    async def snoozes(payload: str, ctx: JobService.Context) -> int:
        began.append((ctx.job_id, time.monotonic()))
        if len([one for one, _ in began if one == ctx.job_id]) == 1:
            raise JobService.Snooze(3600)
        return ctx.attempt

    return began


async def asleep(jobs: JobService, job_type: str = "fails", **options: Any) -> str:
    job_id = await jobs.submit(job_type, "x", **options)

    async def sleeps() -> bool:
        status = await jobs.status(job_id)
        return status.status == "queued" and status.next_attempt_at is not None

    await eventually(sleeps)
    return job_id


@pytest.mark.parametrize(("job_type", "attempts"), [("fails", 2), ("snoozes", 1)])
async def test_it_begins_within_a_moment_whoever_wakes_it(
    jobs: JobService, service: Callable, began: list[tuple[str, float]], job_type: str, attempts: int
) -> None:
    async with service() as other, jobs.worker() as worker:
        job_id = await asleep(jobs, job_type)
        await eventually(lambda: worker.running == 0)
        assert (await jobs.status(job_id)).wake is not None
        begin = time.monotonic()
        status = await other.run_now(job_id)
        assert (status.status, status.next_attempt_at, status.snoozed_until) == ("queued", None, None)
        assert await jobs.result(job_id, timeout=10) == attempts
        assert began[-1][1] - begin < 1
        ended = await jobs.status(job_id)
        assert (ended.wake, ended.attempts) == (None, attempts)
        await eventually(lambda: is_empty(jobs))
    assert len(began) == 2


async def is_empty(jobs: JobService) -> bool:
    return await left_in(jobs) == 0


async def test_a_delayed_job_that_backs_off_is_woken_too(jobs: JobService, began: list[tuple[str, float]]) -> None:
    async with jobs.worker():
        job_id = await asleep(jobs, delay=0.3)
        assert job_id.startswith("at-")
        await jobs.run_now(job_id)
        assert await jobs.result(job_id, timeout=10) == 2


async def test_ten_wakes_at_once_begin_one_attempt(
    jobs: JobService, service: Callable, began: list[tuple[str, float]]
) -> None:
    async with service() as other, jobs.worker():
        job_id = await asleep(jobs)
        answers = await asyncio.gather(
            *((jobs, other)[n % 2].run_now(job_id) for n in range(10)), return_exceptions=True
        )
        told = [answer for answer in answers if isinstance(answer, BaseException)]
        # Those that come when it has begun, or ended, are told so.
        assert all(isinstance(error, AlreadyDue | AlreadyEnded) for error in told), told
        assert await jobs.result(job_id, timeout=10) == 2
        await eventually(lambda: is_empty(jobs))
    assert len(began) == 2


async def test_a_wake_that_comes_too_late_does_no_harm(jobs: JobService, began: list[tuple[str, float]]) -> None:
    """The server delivers the job again, while it runs or after its end."""

    @jobs.handler("long", retry=HOUR)
    async def long(payload: str, ctx: JobService.Context) -> int:
        began.append((ctx.job_id, time.monotonic()))
        if ctx.attempt == 1:
            raise ValueError("once")
        await asyncio.sleep(0.6)
        return ctx.attempt

    async with jobs.worker():
        job_id = await asleep(jobs, "long")
        subject = (await jobs.status(job_id)).wake
        assert subject is not None
        await jobs.run_now(job_id)
        await eventually(lambda: len(began) == 2)
        for _ in range(3):
            await jobs.connection.ask(subject.encode(), b"-NAK")
        assert await jobs.result(job_id, timeout=10) == 2
        jobs.connection.post(subject.encode(), b"-NAK")
        await eventually(lambda: is_empty(jobs))
        history = [item.status.value for item in (await jobs.status(job_id)).history]
    assert history == ["processing", "queued", "processing", "complete"]
    assert len(began) == 2


async def test_a_caller_that_died_between_the_two_writes_is_made_up_for(
    jobs: JobService, namespace: str, began: list[tuple[str, float]]
) -> None:
    state = StateStore(jobs.connection, Names(namespace))
    async with jobs.worker() as worker:
        job_id = await asleep(jobs)
        await eventually(lambda: worker.running == 0)
        found = await state.read(job_id)
        assert found is not None
        assert found.entry is not None
        await state.write(found.entry.woken(), expected=found.revision)
        assert (await jobs.status(job_id)).status == "queued"
        await jobs.run_now(job_id)
        assert await jobs.result(job_id, timeout=10) == 2


async def test_it_is_woken_after_its_worker_and_its_server_came_back(
    settings_of: Callable, own_server: NatsServer
) -> None:
    config = settings_of(nats_url=own_server.url)
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
    async with JobService(config) as first:
        ran = register(first)
        async with first.worker():
            job_id = await asleep(first)
    own_server.kill()
    own_server.start()
    async with JobService(config) as second:
        ran_there = register(second)
        async with second.worker():
            # A restarted server may deliver it at once: it is put to sleep again, and may be woken all the same.
            assert (await second.status(job_id)).status == "queued"
            await second.run_now(job_id)
            assert await second.result(job_id, timeout=10) == 2
    assert (ran, ran_there) == ([1], [2])


def register(jobs: JobService) -> list[int]:
    ran: list[int] = []

    @jobs.handler("fails", retry=HOUR)
    async def fails(payload: str, ctx: JobService.Context) -> int:
        ran.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    return ran


async def test_a_job_that_was_delivered_too_early_is_woken_by_its_last_delivery(
    jobs: JobService, began: list[tuple[str, float]]
) -> None:
    async with jobs.worker():
        job_id = await asleep(jobs)
        first = (await jobs.status(job_id)).wake
        assert first is not None
        await jobs.connection.ask(first.encode(), b"-NAK")  # without a word in its entry: as a restarted server does

        async def has_another() -> str | None:
            status = await jobs.status(job_id)
            return status.wake if status.wake != first else None

        await eventually(has_another)
        assert len(began) == 1
        assert (await jobs.status(job_id)).next_attempt_at is not None
        await jobs.run_now(job_id)
        assert await jobs.result(job_id, timeout=10) == 2


async def test_what_does_not_sleep_is_not_woken(jobs: JobService, began: list[tuple[str, float]]) -> None:
    waiting = await jobs.submit("fails", "x")
    with pytest.raises(JobService.Error) as caught:
        await jobs.run_now(waiting)
    assert caught.value.reason == "NotFound"
    async with jobs.worker():
        await eventually(lambda: began)
        ordered = await asleep(jobs, entity="e")
        with pytest.raises(AlreadyDue, match="a job of an entity waits it out"):
            await jobs.run_now(ordered)
        cancelled = await asleep(jobs)
        await jobs.cancel(cancelled)
        with pytest.raises(JobService.Error) as caught:
            await jobs.run_now(cancelled)
        assert caught.value.reason == "AlreadyCancelled"
        with pytest.raises(AlreadyDue, match="waits for its next attempt"):
            await jobs.reschedule(await asleep(jobs), delay=5)


@pytest.mark.parametrize("forged", ["$JS.API.STREAM.DELETE.X", "jobs.high.e.t", "$JS.ACK.a.b.>.1.1.1.1.1", "$JS.ACK"])
async def test_only_a_delivery_is_answered(
    jobs: JobService, namespace: str, began: list[tuple[str, float]], forged: str
) -> None:
    """Whoever may write entries could have an operator publish anywhere."""
    state = StateStore(jobs.connection, Names(namespace))
    async with jobs.worker():
        job_id = await asleep(jobs)
        found = await state.read(job_id)
        assert found is not None
        assert found.entry is not None
        await state.write(found.entry.model_copy(update={"wake": forged}), expected=found.revision)
        with pytest.raises(AlreadyDue):
            await jobs.run_now(job_id)
