"""Delayed jobs on three nodes with three copies, of which the leader is killed while they fall due."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from nats_cluster import Cluster

from delayed_load import AGAIN, DelayedLoad, now
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import read_live, read_stored
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.settings import Config

pytestmark = pytest.mark.long

HIGH = Priority.HIGH
NAMES = Names("jobs")
LATE = 40
"""Seconds of a failover in which jobs are late, at most, on a slow machine."""


@pytest.fixture
async def config(cluster: Cluster) -> Config:
    return Config(nats_url=await cluster.form(), replicas=3, queue_bytes=2**26, ack_wait=3)


@pytest.fixture
async def over(config: Config) -> AsyncIterator[Connection]:
    connection = await connect(config)

    async def applied() -> bool:
        await TopologyReconciler(connection, NAMES, config).apply()  # a new cluster's first leader may not stay
        return True

    await eventually(applied, within=60)
    yield connection
    await connection.close()


async def leader_of(over: Connection, stream: str) -> str:
    async def look() -> str:
        return str((await call(over, f"STREAM.INFO.{stream}"))["cluster"].get("leader", ""))

    return await eventually(look)


async def is_empty(over: Connection) -> bool:
    return (await call(over, f"STREAM.INFO.{NAMES.stream(HIGH)}"))["state"]["messages"] == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stream", ["SCHEDULE", "HIGH"])
async def test_a_leader_is_killed_while_jobs_fall_due(
    stream: str, cluster: Cluster, config: Config, over: Connection
) -> None:
    load = DelayedLoad()
    async with JobService(config) as jobs:
        load.register(jobs)
        await load.watch(over, NAMES)
        await load.submit(jobs, 1000, after=5, within=5)
        async with jobs.worker():
            await load.reached(300)
            leader = await leader_of(over, NAMES.stream(stream))
            cluster.kill(leader)
            await load.reached(700, within=90)
            cluster.start(leader)
            await load.all_ran(within=90)
            await eventually(lambda: is_empty(over), within=60)
    load.check(crashes=1)
    assert 0 <= await load.stored(over, NAMES) - 1000 <= AGAIN
    assert load.lateness()[-1] < LATE


@pytest.mark.timeout(240)
async def test_of_several_schedules_the_one_submitted_last_is_due_first(config: Config, over: Connection) -> None:
    """On a work queue, nats-server lost all the others (its issue 8423): the schedule stream is none."""
    load = DelayedLoad()
    async with JobService(config) as jobs:
        load.register(jobs)
        await load.watch(over, NAMES)
        begin = now() + timedelta(seconds=2)
        for number in range(30):
            at = begin + timedelta(seconds=(30 - number) * 0.1)
            job_id = await jobs.submit("due", None, at=at, priority=HIGH, entity="e")
            load.due[job_id] = at
        async with jobs.worker():
            await load.all_ran(within=60)
    load.check()
    assert await load.stored(over, NAMES) == 30


@pytest.mark.timeout(240)
async def test_the_shards_are_changed_with_one_copy_while_jobs_fall_due(config: Config, over: Connection) -> None:
    """Once a queue has its copies back it must source again, which the server forgets."""
    load = DelayedLoad()
    wanted = config.model_copy(update={"pools": {**config.pools, HIGH: 6}})
    async with JobService(config) as jobs:
        load.register(jobs)
        await load.watch(over, NAMES)
        await load.submit(jobs, 1500, after=4, within=10)
        async with jobs.worker():
            await load.reached(300, within=60)
            await asyncio.wait_for(TopologyReconciler(over, NAMES, wanted).apply(one_copy=True), 120)
            await load.all_ran(within=90)
            await eventually(lambda: is_empty(over), within=60)
    load.check()
    assert 0 <= await load.stored(over, NAMES) - 1500 <= AGAIN
    assert load.lateness()[-1] < 2 * LATE
    live, stored = await read_live(over, NAMES, HIGH), await read_stored(over, NAMES, HIGH)
    assert stored is not None
    assert ([str(one) for one in live.generations], stored.copies) == (["2x6"], 3)


@pytest.mark.timeout(240)
async def test_every_stream_gets_three_copies_while_jobs_fall_due(cluster: Cluster) -> None:
    """What is due in the moment in which the schedules themselves get theirs fires later, behind its successors."""
    one = Config(nats_url=await cluster.form(), replicas=1, queue_bytes=2**26, ack_wait=3)
    load, three = DelayedLoad(), one.model_copy(update={"replicas": 3})
    async with JobService(one) as jobs:

        async def applied() -> bool:
            await TopologyReconciler(jobs.connection, NAMES, one).apply()
            return True

        await eventually(applied, within=60)
        load.register(jobs)
        await load.watch(jobs.connection, NAMES)
        await load.submit(jobs, 1500, after=4, within=10)
        async with jobs.worker():
            await load.reached(300, within=60)
            await asyncio.wait_for(TopologyReconciler(jobs.connection, NAMES, three).apply(), 150)
            await load.all_ran(within=90)
            await eventually(lambda: is_empty(jobs.connection), within=60)
        # Every stream changes its leader meanwhile: a lease that could not be confirmed is a job that runs again.
        load.check(crashes=1, in_order=False)
        assert 0 <= await load.stored(jobs.connection, NAMES) - 1500 <= AGAIN
