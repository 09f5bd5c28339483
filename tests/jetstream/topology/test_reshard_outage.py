"""A change of the shard count while the connection breaks, answers are lost, or others are quicker."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from facts import eventually
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import Generation, Names
from jsjobs.jetstream.topology import consumers, reshard
from jsjobs.jetstream.topology.generations import read_live
from jsjobs.jetstream.topology.reshard import Draining, Reshard
from jsjobs.model.job import Priority
from jsjobs.settings import Config
from tcp_proxy import TcpProxy

LOW = Priority.LOW


@pytest.fixture
async def names(config: Config, deploy: Callable[[Config], Any], monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setattr(reshard, "SETTLE", 0.0)
    await deploy(config)
    return Names(config.namespace)


@pytest.mark.long
async def test_an_outage_while_old_shards_drain_is_said_and_waited_for(
    config: Config, names: Names, connection: Connection, nats_server: NatsServer
) -> None:
    queue = JobQueue(connection, names)
    await queue.publish(queue.job(LOW, "e", "t", b"1"))
    told: list[Draining] = []
    async with TcpProxy(nats_server.url) as proxy:
        over = Connection()
        await over.open(proxy.url)
        changing = asyncio.ensure_future(Reshard(over, names, config, LOW, told.append).run(3))

        async def is_told(text: str) -> bool:
            return bool(told) and told[-1].left == 1 and text in told[-1].waits_for

        await eventually(lambda: is_told("no worker listens"))
        proxy.deaf = True
        proxy.cut()
        await eventually(lambda: is_told("NATS"), within=30)
        assert not changing.done()
        proxy.deaf = False
        await eventually(lambda: is_told("no worker listens"), within=30)
        await call(connection, f"STREAM.PURGE.{names.stream(LOW)}")
        assert await asyncio.wait_for(changing, 30)
        await over.close()
    assert (await read_live(connection, names, LOW)).generations == (Generation(2, 3),)


@pytest.mark.parametrize(
    "lost", [b'"seq":', b"stream_update_response", b"consumer_create_response", b"consumer_delete", b"consumer_pause"]
)
async def test_a_lost_answer_is_no_second_change(
    config: Config, names: Names, connection: Connection, nats_server: NatsServer, lost: bytes
) -> None:
    """The list's write, the stream's update, a consumer made, removed or resumed: done, and nobody told."""
    async with TcpProxy(nats_server.url) as proxy:
        over = Connection()
        await over.open(proxy.url)
        proxy.cut_before_answer(lambda data: lost in data and b"stream_info" not in data)
        assert await asyncio.wait_for(Reshard(over, names, config, LOW).run(2), 60)
        await over.close()
        assert proxy.lost, "the answer came by"
    assert (await read_live(connection, names, LOW)).generations == (Generation(2, 2),)


async def test_a_consumer_that_another_one_removed_first_is_no_failure(
    config: Config, names: Names, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list of consumers and the request about one of them it may go."""
    resume, gone = consumers.resume, []

    async def resumed(connection: Connection, stream: str, consumer: str, **given: Any) -> None:
        if not gone:
            gone.append(consumer)
            await call(connection, f"CONSUMER.DELETE.{stream}.{consumer}")
        await resume(connection, stream, consumer, **given)

    monkeypatch.setattr(consumers, "resume", resumed)
    assert await asyncio.wait_for(Reshard(connection, names, config, LOW).run(2), 30)
    assert gone
    info = await call(connection, f"CONSUMER.INFO.{names.stream(LOW)}.{gone[0]}")
    assert not info.get("paused")
