"""What delayed jobs need is deleted by an operator and made again; and a namespace from before gets it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from delayed_load import DelayedLoad, due_after
from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

HIGH = Priority.HIGH


@pytest.fixture
def names(namespace: str) -> Names:
    return Names(namespace)


@pytest.fixture
async def topology(
    over: Connection, names: Names, server: NatsServer, settings_of: Callable[..., JobService.Config]
) -> TopologyReconciler:
    topology = TopologyReconciler(over, names, settings_of(nats_url=server.url, timeout=2))
    await topology.apply()
    return topology


@pytest.fixture
async def jobs(
    topology: TopologyReconciler, server: NatsServer, settings_of: Callable[..., JobService.Config]
) -> AsyncIterator[JobService]:
    async with JobService(settings_of(nats_url=server.url, timeout=2)) as jobs:
        yield jobs


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True])
async def test_a_source_consumer_is_deleted_and_made_again(
    killed: bool, jobs: JobService, over: Connection, names: Names, topology: TopologyReconciler, server: NatsServer
) -> None:
    load = DelayedLoad()
    load.register(jobs)
    await load.watch(over, names)
    await load.submit(jobs, 900, after=2, within=4)
    async with jobs.worker():
        await load.reached(300)
        await call(over, f"CONSUMER.DELETE.{names.schedule_stream}.source-high")
        gone = len(load.completed)

        async def more_fired() -> bool:
            return await due_after(over, names, HIGH, 0) > gone + 100

        await eventually(more_fired)
        taken = await topology.apply()
        assert [step.name for step in taken if step.action == "create"] == ["source-high"]
        if killed:
            await load.reached(700)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await load.all_ran(within=60)

        async def empty() -> bool:
            return (await call(over, f"STREAM.INFO.{names.stream(HIGH)}"))["state"]["messages"] == 0

        await eventually(empty, within=30)
    load.check(crashes=killed)
    # A queue that is empty at that moment, as after a kill, may take all again that is still there: a worker drops it.
    stored = await load.stored(over, names)
    assert 900 <= stored <= 900 * (3 if killed else 2)


@pytest.mark.long
async def test_a_router_that_may_change_queues_makes_a_lost_source_again(
    jobs: JobService, over: Connection, names: Names
) -> None:
    load = DelayedLoad()
    load.register(jobs)
    router = jobs.router()
    await load.submit(jobs, 300, after=2, within=2)
    async with jobs.worker():
        await load.reached(100)
        await call(over, f"CONSUMER.DELETE.{names.schedule_stream}.source-high")
        await router.sweep()
        assert router.left == []
        await load.all_ran(within=60)
    load.check()


@pytest.mark.long
async def test_a_queue_is_deleted_and_made_again(
    jobs: JobService, over: Connection, names: Names, topology: TopologyReconciler
) -> None:
    load = DelayedLoad()
    load.register(jobs)
    await load.submit(jobs, 300, after=1.5, within=1)
    await call(over, f"STREAM.DELETE.{names.stream(HIGH)}")

    async def all_fired() -> bool:
        return await due_after(over, names, HIGH, 0) == 300

    await eventually(all_fired)
    await topology.apply()
    async with jobs.worker():
        await load.all_ran()
    load.check()


@pytest.mark.long
async def test_the_schedules_are_deleted_and_made_again(
    jobs: JobService, over: Connection, names: Names, topology: TopologyReconciler
) -> None:
    load, before = DelayedLoad(), DelayedLoad()
    load.register(jobs)
    async with jobs.worker():
        await before.submit(jobs, 200, after=1, within=0.5)
        await eventually(lambda: len(load.completed) == 200)
        load.completed.clear()
        load.began.clear()
        await call(over, f"STREAM.DELETE.{names.schedule_stream}")
        with pytest.raises(JobService.Error, match="RunnerUnavailable"):
            await jobs.submit("due", delay=1)
        await topology.apply()
        # From its begin on: the queue's own place in what it sourced belongs to the stream that is gone.
        await load.submit(jobs, 100, after=1, within=0.5)
        await load.all_ran(within=40)
    load.check()


@pytest.mark.long
async def test_a_namespace_from_before_gets_delayed_jobs_and_loses_none(
    jobs: JobService, over: Connection, names: Names, topology: TopologyReconciler
) -> None:
    await call(over, f"STREAM.DELETE.{names.schedule_stream}")
    for priority in Priority:
        config = (await call(over, f"STREAM.INFO.{names.stream(priority)}"))["config"]
        config.pop("sources")
        await call(over, f"STREAM.UPDATE.{names.stream(priority)}", config)
    ran: list[int] = []
    jobs.register_handler("old", ran.append)
    ids = [await jobs.submit("old", number, priority="high", entity="e") for number in range(50)]
    await topology.apply()
    assert all(step.action == "keep" for step in await topology.plan())
    load = DelayedLoad()
    load.register(jobs)
    await load.submit(jobs, 100, after=1, within=0.5)
    async with jobs.worker():
        await jobs.results(ids)
        await load.all_ran()
    load.check()
    assert ran == list(range(50))
