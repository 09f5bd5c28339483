"""A delivery that comes too early, or too late, takes no job from a worker that lives."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue
from jsjobs.worker import shard_monitor
from taps import Deliveries, begun_runs


@pytest.fixture(autouse=True)
def _slow_shard_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that a test takes from a worker stays away from it."""
    monkeypatch.setattr(shard_monitor, "INTERVAL", 60.0)


async def test_a_long_job_that_runs_is_not_taken_over_when_it_is_delivered_early(
    settings_of: Callable[..., JobService.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NatsServer(tmp_path) as server:
        config = settings_of(nats_url=server.url, ack_wait=2)
        holder, other = JobService(config), JobService(config)
        at_work, runs = asyncio.Event(), []

        async def slow(payload: object, ctx: JobService.Context) -> str:
            runs.append(ctx.attempt)
            at_work.set()
            await asyncio.sleep(config.ack_wait * 3)
            return "done"

        for service in (holder, other):
            service.register_handler("slow", slow)
        async with holder, other:
            await TopologyReconciler(holder.connection, Names(config.namespace), config).apply()
            job_id = await holder.submit("slow", None, priority="low", entity="e", duration="long")
            await asyncio.sleep(config.ack_wait * 1.1)  # the server keeps this time, not that of the delivery
            deliveries = Deliveries(holder.connection, Names(config.namespace), monkeypatch)
            async with holder.worker() as worker:
                await at_work.wait()
                [shard] = [shard for shard in worker.taken if shard.queue == Queue(Priority.LOW)]
                await deliveries.end(shard.consumer)
                async with other.worker() as taker:
                    server.kill()
                    server.start()

                    async def is_delivered_to_the_other() -> bool:
                        info = await holder.connection.ask(
                            f"$JS.API.CONSUMER.INFO.{config.namespace.upper()}_LOW.{shard.consumer}".encode()
                        )
                        return b'"num_redelivered":1' in info.data.replace(b" ", b"")

                    await eventually(is_delivered_to_the_other)
                    assert await holder.result(job_id, timeout=20) == "done"
                    assert taker.running == 0
        assert runs == [1]


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_delivery_that_waited_in_a_buffer_takes_no_job_from_a_worker_that_lives(
    attempt: int,
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    plain: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    holder, woken = JobService(config), JobService(config)
    runs, go_on = [], asyncio.Event()

    async def slow(payload: object, ctx: JobService.Context) -> str:
        runs.append(ctx.attempt)
        await go_on.wait()
        return "done"

    for service in (holder, woken):
        service.register_handler("slow", slow)
    taken: list[Msg] = []

    async def take(message: Msg) -> None:
        taken.append(message)

    subscription = await plain.subscribe(f"{config.namespace}.deliver.low.1x1.0", queue="workers", cb=take)
    async with holder, woken:
        job_id = await holder.submit("slow", None, priority="low", entity="e", duration="long")
        await eventually(lambda: len(taken) == attempt)  # by a worker that stands still from here on
        await subscription.unsubscribe()
        async with holder.worker():
            await eventually(lambda: runs)
            began = time.monotonic()
            deliveries = Deliveries(woken.connection, Names(config.namespace), monkeypatch)
            async with woken.worker() as worker:
                [shard] = [shard for shard in worker.taken if shard.queue == Queue(Priority.LOW)]
                await deliveries.end(shard.consumer)
                for age in (0.5, 1.5):
                    await asyncio.sleep(began + age * config.ack_wait - time.monotonic())
                    header = b"NATS/1.0\r\nJsjobs-Duration: long\r\n\r\n"
                    subject, reply = taken[-1].subject.encode(), taken[-1].reply.encode()
                    deliveries.give(shard.consumer, subject, reply, header, taken[-1].data)
                    await eventually(lambda: worker.running == 0)
                go_on.set()
                assert await holder.result(job_id) == "done"
        assert (await holder.status(job_id)).attempts == 1
    assert runs == [1]


@pytest.mark.long
@pytest.mark.parametrize("to_itself", [False, True])
async def test_a_consumer_that_is_made_anew_takes_no_long_job_from_a_worker_that_lives(
    to_itself: bool,
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings_of(ack_wait=3)
    await deploy(config)
    holder, other = JobService(config), JobService(config)
    at_work, runs = asyncio.Event(), []

    async def slow(payload: object, ctx: JobService.Context) -> str:
        runs.append(ctx.attempt)
        at_work.set()
        await asyncio.sleep(config.ack_wait * 4)
        return "done"

    for service in (holder, other):
        service.register_handler("slow", slow)
    names = Names(config.namespace)
    async with holder, other:
        deliveries = Deliveries(holder.connection, names, monkeypatch)
        async with holder.worker() as worker:
            job_id = await holder.submit("slow", None, priority="low", entity="e", duration="long")
            await at_work.wait()
            [shard] = [shard for shard in worker.taken if shard.queue == Queue(Priority.LOW)]
            place = f"CONSUMER.INFO.{names.stream(shard.priority)}.{shard.consumer}"
            if not to_itself:
                await deliveries.end(shard.consumer)
            await asyncio.sleep(config.ack_wait * 1.2)  # its entry is older than a lease
            async with other.worker() if not to_itself else contextlib.nullcontext():
                await call(holder.connection, place.replace("INFO", "DELETE"))
                await TopologyReconciler(holder.connection, names, config).apply()

                async def is_delivered() -> bool:
                    return bool((await call(holder.connection, place))["num_ack_pending"])

                await eventually(is_delivered)
                assert await holder.result(job_id, timeout=20) == "done"
                status = await holder.status(job_id)
                assert (status.attempts, runs) == (1, [1])
                await eventually(lambda: is_gone(holder, names, shard.priority))


async def is_gone(service: JobService, names: Names, priority: str) -> bool:
    """Whether nothing is left of the job in its queue: its end counts for the delivery that came last."""
    return not (await call(service.connection, f"STREAM.INFO.{names.stream(Priority(priority))}"))["state"]["messages"]


@pytest.mark.long
@pytest.mark.parametrize("bound", [100, 1])
async def test_an_early_delivery_to_the_worker_that_runs_the_job_costs_no_attempt(
    bound: int, settings_of: Callable[..., JobService.Config], tmp_path: Path
) -> None:
    with NatsServer(tmp_path) as server:
        config = settings_of(nats_url=server.url, ack_wait=3, concurrency=bound, grace=15)
        at_work, runs = asyncio.Event(), []
        async with JobService(config) as jobs:

            @jobs.handler("slow")
            async def slow(payload: object, ctx: JobService.Context) -> str:
                runs.append(ctx.attempt)
                at_work.set()
                await asyncio.sleep(config.ack_wait * 2)
                return "done"

            names = Names(config.namespace)
            await TopologyReconciler(jobs.connection, names, config).apply()
            job_id = await jobs.submit("slow", None, priority="low", entity="e", duration="long")
            await asyncio.sleep(config.ack_wait * 1.1)  # the server keeps this time, not that of the delivery
            async with jobs.worker() as worker:
                await at_work.wait()
                reconnected = asyncio.Event()
                jobs.connection.on_reconnect.append(reconnected.set)
                server.kill()
                server.start()
                await reconnected.wait()
                [shard] = [shard for shard in worker.taken if shard.queue == Queue(Priority.LOW)]
                place = f"CONSUMER.INFO.{names.stream(shard.priority)}.{shard.consumer}"

                async def is_delivered_again() -> bool:
                    return bool((await call(jobs.connection, place))["num_redelivered"])

                await eventually(is_delivered_again)
                assert await jobs.result(job_id, timeout=20) == "done"
                assert ((await jobs.status(job_id)).attempts, runs) == (1, [1])
                await eventually(lambda: is_gone(jobs, names, shard.priority))


@pytest.mark.parametrize("bound", [100, 1])
async def test_a_delivery_that_comes_while_the_worker_stops_is_left_to_the_run_that_it_still_has(
    bound: int,
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings_of(ack_wait=4, concurrency=bound, grace=15)
    await deploy(config)
    at_work, go_on, runs, begun = asyncio.Event(), asyncio.Event(), [], begun_runs(monkeypatch)
    async with JobService(config) as jobs:
        deliveries = Deliveries(jobs.connection, Names(config.namespace), monkeypatch)

        @jobs.handler("slow")
        async def slow(payload: object, ctx: JobService.Context) -> str:
            runs.append(ctx.attempt)
            at_work.set()
            await go_on.wait()
            return "done"

        async with jobs.worker() as worker:
            job_id = await jobs.submit("slow", None, priority="low", entity="e", duration="long")
            await at_work.wait()
            mine = begun[0].delivery
            words = mine.reply.split(b".")
            words[4] = b"2"
            reply = b".".join(words)
            stopping = asyncio.ensure_future(worker.stop())
            await eventually(lambda: worker.why_not_ready == "the worker is stopping")
            await eventually(lambda: deliveries.have_ended("low-1x1-0"))
            deliveries.repeat(mine, reply)
            assert mine.reply == reply, "it answers through the newer one, and gave nothing back"
            go_on.set()
            await stopping
            assert await jobs.result(job_id, timeout=20) == "done"
        assert ((await jobs.status(job_id)).attempts, runs) == (1, [1])
