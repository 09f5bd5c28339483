"""Every way for a job to die ends in exactly one row of `job_dlq`."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from app_processes import Apps
from nats.aio.client import Client
from nats.aio.msg import Msg

from deliveries import set_max_deliver
from facts import eventually
from jsjobs import JobService


async def depth(plain: Client, stream: str) -> int:
    return (await plain.jetstream().stream_info(stream)).state.messages


@asynccontextmanager
async def frozen_worker(plain: Client, namespace: str, shard: str) -> AsyncIterator[list[Msg]]:
    """Takes deliveries and never answers."""
    taken: list[Msg] = []

    async def take(message: Msg) -> None:
        taken.append(message)

    subscription = await plain.subscribe(f"{namespace}.deliver.{shard}", queue="workers", cb=take)
    yield taken
    await subscription.unsubscribe()


async def test_a_handler_that_always_raises(jobs: JobService) -> None:
    @jobs.handler("hopeless", retry=JobService.Retry(initial=0.01))
    async def hopeless(payload: int, ctx: JobService.Context) -> None:
        raise RuntimeError(f"attempt {ctx.attempt} of {payload}")

    with jobs.request_context(tenant_id="acme"):
        job_id = await jobs.submit("hopeless", 5, max_attempts=4)
    async with jobs.worker(), jobs.router():
        letter = await eventually(lambda: jobs.dlq.find(job_id))
    assert (letter.app_id, letter.error_reason, letter.attempts) == ("acme", "MaxRetries", 4)
    assert [item["attempt"] for item in letter.error_history] == [1, 2, 3, 4]
    assert [item["error"] for item in letter.error_history] == [f"RuntimeError: attempt {n} of 5" for n in range(1, 5)]
    assert [row.original_job_id for row in await jobs.dlq.list()] == [job_id]


async def test_a_handler_that_kills_its_process_kills_no_more_than_max_attempts(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], apps: Callable[..., Apps]
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    workers = apps(config)
    async with JobService(config) as jobs, jobs.router():
        job_id = await jobs.submit("suicide", None, max_attempts=2)
        after = await jobs.submit("step", {"n": 0}, entity="innocent")
        process = workers.start_soon()

        async def is_buried() -> bool:
            nonlocal process
            if process.poll() is not None:
                assert process.returncode == 9
                process = workers.start_soon()
            return bool(await jobs.dlq.list())

        await eventually(is_buried)
        [letter] = await jobs.dlq.list()
        assert await jobs.result(after) is None
    assert [event["attempt"] for event in workers.events("start") if event["job"] == job_id] == [1, 2]
    assert len(workers.processes) == 2 + 1
    assert process.poll() is None
    assert (letter.original_job_id, letter.error_reason, letter.attempts) == (job_id, "MaxRetries", 2)
    assert len(letter.error_history) == 2
    assert all("the worker was lost" in item["error"] for item in letter.error_history)


async def test_a_job_that_no_worker_answers_for_ends_by_the_advisory(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    async with JobService(config) as jobs, jobs.router(), frozen_worker(plain, config.namespace, "low.1x1.0") as taken:
        with jobs.request_context(tenant_id="acme"):
            job_id = await jobs.submit("never.seen", {"n": 1}, priority="low", entity="e1")
        letter = await eventually(lambda: jobs.dlq.find(job_id))
        assert len(taken) == 2
        status = await jobs.status(job_id)
        await eventually(lambda: is_empty(plain, f"{config.namespace.upper()}_LOW"))
        await eventually(lambda: is_empty(plain, f"{config.namespace.upper()}_DEAD"))
    assert (letter.app_id, letter.entity, letter.type) == ("acme", "e1", "never.seen")
    assert (letter.error_reason, letter.payload, letter.attempts) == ("MaxRetries", b'{"n":1}', 0)
    assert "no worker ever started it" in letter.error_history[0]["error"]
    assert (status.status, status.error_reason) == ("failed", "MaxRetries")


async def is_empty(plain: Client, stream: str) -> bool:
    return await depth(plain, stream) == 0


async def test_the_sweep_finds_what_no_advisory_told(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    dead, low = (f"{config.namespace.upper()}_{name}" for name in ("DEAD", "LOW"))
    async with JobService(config) as jobs, frozen_worker(plain, config.namespace, "low.1x1.0") as taken:
        given_up = await jobs.submit("never.seen", 1, priority="low", entity="e")

        async def is_advised() -> bool:
            return await depth(plain, dead) == 1

        await eventually(is_advised)
        await plain.jetstream().purge_stream(dead)
        in_flight = await jobs.submit("never.seen", 2, priority="low", entity="e")

        async def is_delivered() -> bool:
            return len(taken) == 3

        await eventually(is_delivered)
        router = jobs.router()
        await router.sweep()
        assert await jobs.dlq.list() == []  # seen once is not enough

        async def is_found() -> bool:
            await router.sweep()
            return bool(await jobs.dlq.list())

        await eventually(is_found)
        [letter] = await jobs.dlq.list()
        assert letter.original_job_id == given_up
        assert letter.error_reason == "MaxRetries"
        assert await depth(plain, low) == 1
        assert (await jobs.status(in_flight)).status == "queued"


async def test_the_sweep_restores_a_missing_consumer_and_buries_nothing_of_it(jobs: JobService, plain: Client) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    stream = f"{jobs.config.namespace.upper()}_LOW"
    job_id = await jobs.submit("echo", 3, priority="low", entity="e")
    await plain.jetstream().delete_consumer(stream, "low-1x1-0")
    router = jobs.router()
    await router.sweep()
    await router.sweep()
    info = await plain.jetstream().consumer_info(stream, "low-1x1-0")
    assert info.num_pending == 1
    async with jobs.worker():
        assert await jobs.result(job_id) == 3
    assert await jobs.dlq.list() == []


async def test_a_job_of_the_largest_size_that_no_worker_answers_for_keeps_its_bytes(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    body = json.dumps("x" * (896 * 1024 - 2)).encode()
    async with JobService(config) as jobs, jobs.router(), frozen_worker(plain, config.namespace, "low.1x1.0"):
        receipt = await plain.jetstream().publish(f"{config.namespace}.low.e.big", body)
        letter = await eventually(lambda: jobs.dlq.find(f"low-{receipt.seq}"))
    assert letter.payload == body
