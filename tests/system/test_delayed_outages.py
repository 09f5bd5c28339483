"""The server is killed, or ended in good order, while delayed jobs fall due: none lost, none early, none twice."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from delayed_load import AGAIN, DelayedLoad, due_after, source_of
from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

pytestmark = pytest.mark.long

HIGH = Priority.HIGH


def end(server: NatsServer, how: str) -> None:
    server.kill() if how == "SIGKILL" else server.stop()
    server.start()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
async def test_the_server_is_restarted_in_the_middle_of_the_firing(
    how: str, server: NatsServer, over: Connection, settings_of: Callable[..., JobService.Config], namespace: str
) -> None:
    config, names = settings_of(nats_url=server.url, timeout=2), Names(namespace)
    await TopologyReconciler(over, names, config).apply()
    load = DelayedLoad()
    async with JobService(config) as jobs:
        load.register(jobs)
        await load.watch(over, names)
        await load.submit(jobs, 2000, after=4, within=4)
        async with jobs.worker():
            for part in (600, 1200):
                await load.reached(part)
                await asyncio.to_thread(end, server, how)
            await load.all_ran(within=60)

            async def all_stored() -> bool:
                return await load.stored(over, names) >= 2000

            await eventually(all_stored)
    load.check(crashes=2)
    assert 0 <= await load.stored(over, names) - 2000 <= (2 * AGAIN if how == "SIGKILL" else 0)
    assert load.lateness()[-1] < 30


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
async def test_a_full_queue_delays_what_is_due_and_loses_none_of_it(
    how: str, server: NatsServer, over: Connection, settings_of: Callable[..., JobService.Config], namespace: str
) -> None:
    config, names = settings_of(nats_url=server.url, capacity=20, timeout=2), Names(namespace)
    await TopologyReconciler(over, names, config).apply()
    load = DelayedLoad(entities=7)
    stream = names.stream(HIGH)

    async def fired_and_full() -> bool:
        held = (await call(over, f"STREAM.INFO.{stream}"))["state"]["messages"]
        return held >= 20 and await due_after(over, names, HIGH, 0) == 400

    async def floor_is_stored() -> None:
        # What is purged up to the ack floor must be in the queue, which nobody has drained yet.
        floor = (await source_of(over, names, HIGH))["ack_floor"]["stream_seq"]
        held = (await call(over, f"STREAM.INFO.{stream}"))["state"]["messages"]
        assert await due_after(over, names, HIGH, floor) >= 400 - held, (floor, held)

    async with JobService(config) as jobs, AsyncExitStack() as stack:
        load.register(jobs)
        await load.watch(over, names)
        await load.submit(jobs, 400, after=1, within=1)
        await eventually(fired_and_full)
        for _ in range(2):
            await floor_is_stored()
            await asyncio.to_thread(end, server, how)
            await eventually(fired_and_full)
            await floor_is_stored()
        await stack.enter_async_context(jobs.worker())
        await load.all_ran(within=60)
    load.check()
    assert await load.stored(over, names) == 400  # what it holds tells a killed server how far it was
