"""A job ends by its attempts, however often it is delivered: retries and releases do not use it up before."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from deliveries import set_max_deliver
from diagnosis import ills
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names

Deploy = Callable[[JobService.Config], Awaitable[None]]
AT_ONCE = JobService.Retry(initial=0, max_retries=999)


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    """With an `ack_wait` that no busy machine outlasts: every delivery is counted here."""
    return settings_of(ack_wait=30)


async def give_back(plain: Client, namespace: str, times: int) -> None:
    """Take the first job of the low queue so often, and give it back."""
    taken = 0
    done = asyncio.Event()

    async def take(message: Msg) -> None:
        nonlocal taken
        taken += 1
        if taken == times:
            await subscription.unsubscribe()
            done.set()
        await message.nak()

    subscription = await plain.subscribe(f"{namespace}.deliver.low.1x1.0", queue="workers", cb=take)
    async with asyncio.timeout(60):
        await done.wait()
    await plain.flush()


async def delivered(jobs: JobService) -> int:
    stream = Names(jobs.config.namespace).stream("low")
    info = await call(jobs.connection, f"CONSUMER.INFO.{stream}.low-1x1-0")
    count: int = info["delivered"]["consumer_seq"]
    return count


@pytest.mark.parametrize(("attempts", "releases"), [(150, 500), pytest.param(1000, 8900, marks=pytest.mark.long)])
async def test_a_job_that_was_given_back_often_has_all_its_attempts(
    jobs: JobService, plain: Client, attempts: int, releases: int
) -> None:
    @jobs.handler("t", retry=AT_ONCE)
    async def fails(payload: object, ctx: JobService.Context) -> None:
        raise RuntimeError(f"attempt {ctx.attempt}")

    job_id = await jobs.submit("t", priority="low", entity="e", max_attempts=attempts)
    await give_back(plain, jobs.config.namespace, releases)
    async with jobs.worker(), jobs.router():
        letter = await eventually(lambda: jobs.dlq.find(job_id), within=120)
        assert await delivered(jobs) == attempts + releases
    assert (letter.error_reason, letter.attempts) == ("MaxRetries", attempts)
    assert [item["error"] for item in letter.error_history] == [
        f"RuntimeError: attempt {number}" for number in range(1, attempts + 1)
    ]


async def test_an_older_deployment_gives_jobs_more_deliveries_once_its_streams_are_applied(
    jobs: JobService, plain: Client, deploy: Deploy
) -> None:
    await set_max_deliver(jobs.config, 100)
    found = (await ills(jobs.config))["declared"]
    assert len(found) == 10
    assert {finding.what for finding in found} == {"it differs from the declaration: max_deliver is 100, not 10000"}
    assert {finding.remedy for finding in found} == {"jsjobs streams apply"}

    jobs.register_handler("t", lambda payload: payload)
    job_id = await jobs.submit("t", 7, priority="low", entity="e")
    await give_back(plain, jobs.config.namespace, 99)
    await deploy(jobs.config)
    assert "declared" not in await ills(jobs.config)
    await give_back(plain, jobs.config.namespace, 50)
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == 7
    assert await delivered(jobs) == 150
