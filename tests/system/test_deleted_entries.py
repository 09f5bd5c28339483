"""Whoever deletes the entry of a job that has not ended loses what it told, and not the job."""

import asyncio
from collections.abc import Callable

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue
from jsjobs.worker import shard_monitor
from taps import Deliveries, begun_runs


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=2, retry=JobService.Retry(initial=60))


async def delete_entry(plain: Client, jobs: JobService, job_id: str) -> None:
    """As `nats kv del` does."""
    bucket = await plain.jetstream().key_value(Names(jobs.config.namespace).bucket)
    await bucket.delete(job_id)


@pytest.mark.parametrize("duration", ["short", "long"])
async def test_a_running_job_is_run_once_more_and_ends_once(duration: str, jobs: JobService, plain: Client) -> None:
    runs: list[int] = []
    go_on = asyncio.Event()

    @jobs.handler("step")
    async def step(payload: int, ctx: JobService.Context) -> str:
        runs.append(payload)
        if runs == [1]:
            await go_on.wait()
        return f"{payload}, attempt {ctx.attempt}"

    async with jobs.worker():
        first, second = [await jobs.submit("step", number, entity="order-1", duration=duration) for number in (1, 2)]
        await eventually(lambda: runs == [1])
        await delete_entry(plain, jobs, first)
        go_on.set()
        assert await jobs.result(first) == "1, attempt 1"
        assert await jobs.result(second) == "2, attempt 1"
    assert runs == [1, 1, 2]


async def test_a_job_that_waits_for_its_retry_is_known_by_its_message_and_can_be_cancelled(
    jobs: JobService, plain: Client
) -> None:
    @jobs.handler("step")
    async def step(payload: int) -> None:
        raise RuntimeError("not yet")

    async with jobs.worker():
        job_id = await jobs.submit("step", 1)

        async def waits() -> bool:
            return (await jobs.status(job_id)).attempts == 1 and (await jobs.status(job_id)).status == "queued"

        await eventually(waits)
        await delete_entry(plain, jobs, job_id)
        known = await jobs.status(job_id)
        assert (known.status, known.attempts) == ("queued", 0)
        await jobs.cancel(job_id)
        assert (await jobs.status(job_id)).status == "cancelled"


async def test_an_ended_job_whose_entry_was_deleted_is_not_known_and_not_run_again(
    jobs: JobService, plain: Client
) -> None:
    runs: list[int] = []

    @jobs.handler("step")
    async def step(payload: int) -> None:
        runs.append(payload)

    async with jobs.worker():
        first = await jobs.submit("step", 1, entity="order-1")
        await jobs.result(first)
        await delete_entry(plain, jobs, first)
        with pytest.raises(JobService.Error, match="is not known"):
            await jobs.status(first)
        await jobs.result(await jobs.submit("step", 2, entity="order-1"))
    assert runs == [1, 2]


async def test_no_other_worker_begins_a_job_beside_the_one_that_still_runs_it(
    jobs: JobService, plain: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is delivered again early, when its entry was just deleted, which its worker has not seen yet."""
    monkeypatch.setattr(shard_monitor, "INTERVAL", 60.0)  # the holder gets no other delivery
    running, most, runs = 0, 0, 0

    async def step(payload: int) -> int:
        nonlocal running, most, runs
        running, runs = running + 1, runs + 1
        most = max(most, running)
        try:
            await asyncio.sleep(60 if runs == 1 else 0)
        finally:
            running -= 1
        return runs

    begun = begun_runs(monkeypatch)
    deliveries = Deliveries(jobs.connection, Names(jobs.config.namespace), monkeypatch)
    async with JobService(jobs.config) as others:
        for service in (jobs, others):
            service.register_handler("step", step)
        async with jobs.worker() as holder:
            job_id = await jobs.submit("step", 1, priority="low", entity="e", duration="long")
            await eventually(lambda: running)
            [shard] = [shard for shard in holder.taken if shard.queue == Queue(Priority.LOW)]
            await deliveries.end(shard.consumer)
            async with others.worker():
                await delete_entry(plain, jobs, job_id)
                await plain.publish(begun[0].delivery.reply.decode(), b"-NAK")
                assert await jobs.result(job_id) == 2
    assert most == 1
