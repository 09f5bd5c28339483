"""A job is cancelled whose worker has died: a message in flight is deleted, and its shard goes on in silence."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

LOW = Shard.of("low-1x1-0")
assert LOW is not None
GOES_ON_WITHIN = 5
"""Seconds beside `ack_wait`."""


async def take_one_and_die(url: str, names: Names) -> None:
    """As a worker that is killed before it has written anything."""
    client = await nats.connect(url)
    taken: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        taken.set_result(message)

    await client.subscribe(names.deliver(LOW), queue="workers", cb=take)
    await asyncio.wait_for(taken, 10)
    await client.close()


@pytest.mark.parametrize("crashes", [False, True], ids=["", "server killed"])
async def test_its_shard_goes_on(crashes: bool, settings_of: Callable[..., JobService.Config], tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        config = settings_of(nats_url=server.url, ack_wait=2)
        jobs, names, ran = JobService(config), Names(config.namespace), list[int]()

        @jobs.handler("step")
        async def step(payload: int) -> None:
            ran.append(payload)

        async with jobs:
            await TopologyReconciler(jobs.connection, names, config).apply()
            first, *others = [await jobs.submit("step", number, priority="low", entity="e") for number in range(5)]
            await take_one_and_die(server.url, names)
            await jobs.cancel(first)
            if crashes:
                server.kill()
                server.start()
            began = time.monotonic()
            async with jobs.worker(), jobs.router():
                for job_id in others:
                    await jobs.result(job_id)
            assert ran == [1, 2, 3, 4]
            assert time.monotonic() - began < config.ack_wait + GOES_ON_WITHIN
