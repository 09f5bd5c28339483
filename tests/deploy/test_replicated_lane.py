"""The parallel lanes of three nodes: applied with three copies, and their partitions changed under load."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from nats_cluster import Cluster

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.streams import stream_info
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.jetstream.topology.plan import Action
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.settings import Config

pytestmark = pytest.mark.long

NORMAL = Priority.NORMAL
NAMES = Names("jobs")
LANE = NAMES.queue(Queue(NORMAL, Lane.PARALLEL))


class Load:
    """Submits jobs of many tenants, again where the lane is away for a moment, and counts what ran."""

    def __init__(self) -> None:
        self.ran = Counter[int]()
        self.submitted = 0
        self.stop = False

    def register(self, service: JobService) -> None:
        @service.handler("count")
        async def count(number: int) -> None:
            self.ran[number] += 1

    async def submit(self, service: JobService) -> None:
        while not self.stop:
            await asyncio.gather(*(self._submit(service, self.submitted + number) for number in range(20)))
            self.submitted += 20

    async def _submit(self, service: JobService, number: int) -> None:
        async def is_submitted() -> bool:
            with service.request_context(tenant_id=f"tenant-{number % 20}"):
                await service.submit("count", number, dedupe_key=str(number))
            return True

        await eventually(is_submitted, within=60)

    async def goes_on(self) -> None:
        before = len(self.ran)
        await eventually(lambda: len(self.ran) > before + 200, within=60)


@pytest.mark.timeout(600)
async def test_partitions_of_a_lane_with_three_copies_are_changed_under_load(cluster: Cluster) -> None:
    url = await cluster.form()
    config = Config(nats_url=url, replicas=3, queue_bytes=2**26, lane_bytes=2**26)
    load, services = Load(), [JobService(config) for _ in range(3)]
    connection = await connect(config)

    def applying(partitions: int) -> TopologyReconciler:
        return TopologyReconciler(connection, NAMES, config.model_copy(update={"partitions": partitions}))

    async def applied() -> bool:
        await applying(4).apply()
        return True

    await eventually(applied, within=60)
    assert await copies(connection) == {3}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        for service in services:
            await stack.enter_async_context(service)
        for service in services[:2]:
            load.register(service)
            await stack.enter_async_context(service.worker())
        submitting = asyncio.ensure_future(load.submit(services[2]))
        await load.goes_on()
        with pytest.raises(JobService.Error, match=r"nothing was changed, because .*it has 3 copies.*--one-copy"):
            await applying(8).apply()
        for partitions in (8, 3):
            await asyncio.wait_for(applying(partitions).apply(one_copy=True), 200)
            assert (await stream_info(connection, LANE)).config.num_replicas == 3
            await load.goes_on()
        load.stop = True
        await submitting
        await eventually(lambda: set(range(load.submitted)) <= set(load.ran), within=60)

        async def only_three_are_left() -> bool:
            steps = await applying(3).apply(one_copy=True)
            left = len(await live_partitions(connection, NAMES, (NORMAL,)))
            return left == 3 and {step.action for step in steps} == {Action.KEEP}

        await eventually(only_three_are_left, within=200)
    assert set(load.ran.values()) == {1}
    assert set(load.ran) == set(range(load.submitted))


async def copies(connection: Connection) -> set[int]:
    """How many copies the lane has, and how many its consumers have."""
    info = await stream_info(connection, LANE)
    found = {info.config.num_replicas, 1 + len(info.replicas)}
    return found | {
        one.config.as_told.get("num_replicas") or info.config.num_replicas
        async for one in list_consumers(connection, LANE)
    }
