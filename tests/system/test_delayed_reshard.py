"""The shard count is changed while delayed jobs fall due: nothing lost, nothing twice, every entity in order."""

import asyncio
from collections.abc import Callable

import pytest

from delayed_load import AGAIN, DelayedLoad, now
from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import read_live
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

pytestmark = pytest.mark.long

HIGH = Priority.HIGH


@pytest.mark.parametrize("killed", [False, True])
async def test_3_to_6_to_2_shards_while_delayed_jobs_fall_due(
    killed: bool, server: NatsServer, over: Connection, settings_of: Callable[..., JobService.Config], namespace: str
) -> None:
    config, names = settings_of(nats_url=server.url, timeout=2), Names(namespace)
    await TopologyReconciler(over, names, config).apply()
    load = DelayedLoad()

    async def is_changing() -> bool:
        return len((await read_live(over, names, HIGH)).generations) > 1

    async def change(shards: int) -> None:
        wanted = config.model_copy(update={"pools": {**config.pools, HIGH: shards}})
        changing = asyncio.create_task(TopologyReconciler(over, names, wanted).apply())
        if killed:
            await eventually(is_changing)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await changing

    async with JobService(config) as jobs:
        load.register(jobs)
        await load.watch(over, names)
        await load.submit(jobs, 2000, after=3, within=9)
        async with jobs.worker():
            for part, shards in ((300, 6), (1000, 2)):
                await load.reached(part)
                await change(shards)
            # Some fall due after the last change in any case, and behind the others.
            behind = (max(load.due.values()) - now()).total_seconds()
            await load.submit(jobs, 200, after=max(behind, 0) + 2, within=1)
            await load.all_ran(within=60)
    load.check(crashes=2 * killed)
    assert 0 <= await load.stored(over, names) - 2200 <= 2 * AGAIN * killed
    live = await read_live(over, names, HIGH)
    assert [str(one) for one in live.generations] == ["3x2"]
