"""Consumers in which messages wait and none is delivered are woken, and nobody's pause is overruled.

A pause that is merely lifted leaves a consumer as a crash of nats-server can: see tests/system/test_stalled_shard.py.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology import stalled_consumers as stalled_module
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.maintenance.sweep import Sweep

LOW = Shard.of("low-1x1-0")
assert LOW is not None


@pytest.fixture
def names(config: JobService.Config) -> Names:
    return Names(config.namespace)


async def pause(connection: Connection, stream: str, consumer: str) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    await call(connection, f"CONSUMER.PAUSE.{stream}.{consumer}", {"pause_until": until.isoformat()})


async def lift(connection: Connection, stream: str, consumer: str) -> None:
    """As no tool of ours does: the server does not deliver until something stirs the consumer."""
    assert not (await call(connection, f"CONSUMER.PAUSE.{stream}.{consumer}", {}))["paused"]


class Listener:
    """Takes the deliveries of a shard, as a worker does that has no shard monitor."""

    def __init__(self) -> None:
        self.got: list[Msg] = []

    async def listen(self, plain: Client, names: Names) -> None:
        await plain.subscribe(names.deliver(LOW), queue="workers", cb=self._on_delivery)
        await plain.flush()

    async def _on_delivery(self, message: Msg) -> None:
        self.got.append(message)
        await message.ack()


async def stalled(jobs: JobService, connection: Connection, names: Names, count: int) -> dict[str, Any]:
    """Let jobs wait in a shard that has a listener and delivers nothing."""
    stream = names.stream(LOW.priority)
    await pause(connection, stream, LOW.consumer)
    await jobs.submit("work", list(range(count)), priority="low", entity="e")
    await lift(connection, stream, LOW.consumer)
    await asyncio.sleep(1)
    return (await live_shards(connection, names, (LOW.priority,)))[LOW]


async def test_a_router_wakes_a_shard_that_stalls(
    jobs: JobService, plain: Client, connection: Connection, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    await listener.listen(plain, names)
    info = await stalled(jobs, connection, names, 5)
    assert (info.num_pending, info.num_ack_pending, info.push_bound) == (5, 0, True)
    assert listener.got == []
    began = time.monotonic()
    async with jobs.router():
        await eventually(lambda: len(listener.got) == 5)
    assert time.monotonic() - began < 5
    assert caplog.text.count("messages waited and none was delivered; it was woken") == 1


async def test_a_pause_that_is_over_keeps_no_shard_asleep(
    jobs: JobService, plain: Client, connection: Connection, names: Names
) -> None:
    await jobs.pause("low", 0.5)  # it stays written down when it is over
    listener = Listener()
    await listener.listen(plain, names)
    await asyncio.sleep(1)
    await stalled(jobs, connection, names, 5)
    assert listener.got == []
    async with jobs.router():
        await eventually(lambda: len(listener.got) == 5)


async def test_a_worker_wakes_it_where_no_router_runs(jobs: JobService, connection: Connection, names: Names) -> None:
    ran: list[int] = []

    @jobs.handler("work")
    async def work(number: int) -> None:
        ran.append(number)

    async with jobs.worker():
        info = await stalled(jobs, connection, names, 5)
        assert info.num_pending == 5
        assert ran == []
        await eventually(lambda: ran == [0, 1, 2, 3, 4], within=10)


async def test_a_paused_shard_is_not_woken_and_one_that_is_being_paused_stays_so(
    jobs: JobService,
    plain: Client,
    connection: Connection,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = Listener()
    await listener.listen(plain, names)
    stream, original, woken = names.stream(LOW.priority), stalled_module.resume, asyncio.Event()

    async def resume_after_the_pause(*given: Any, **more: Any) -> None:
        await jobs.pause("low")  # the operator's is there first; ours comes last
        await original(*given, **more)
        woken.set()

    monkeypatch.setattr(stalled_module, "resume", resume_after_the_pause)
    await stalled(jobs, connection, names, 3)
    async with jobs.router():
        async with asyncio.timeout(20):
            await woken.wait()

        async def is_paused_for_long() -> bool:
            info = await call(connection, f"CONSUMER.INFO.{stream}.{LOW.consumer}")
            return bool(info.get("paused")) and info["config"]["pause_until"].startswith("2099")

        await eventually(is_paused_for_long)
        await asyncio.sleep(1.5)  # longer than the pause that wakes
    assert listener.got == []


async def test_letters_that_are_not_handed_out_are_stirred_too(
    jobs: JobService, connection: Connection, names: Names
) -> None:
    @jobs.handler("work")
    async def work(number: int) -> None:
        raise JobService.Error.from_validation("never")

    async with jobs.router(), jobs.worker():
        await pause(connection, names.dead_stream, names.router)
        job_id = await jobs.submit("work", 1, entity="e")
        with pytest.raises(JobService.Error):
            await jobs.result(job_id)
        await lift(connection, names.dead_stream, names.router)
        assert await jobs.dlq.list() == []
        await eventually(lambda: jobs.dlq.find(job_id))


async def test_a_lost_shard_is_back_in_seconds(
    jobs: JobService,
    connection: Connection,
    names: Names,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []

    @jobs.handler("work")
    async def work(number: int) -> None:
        ran.append(number)

    async def none(_: Sweep) -> None:
        """The sweep finds it too, but not for two minutes."""

    monkeypatch.setattr(Sweep, "once", none)
    async with jobs.router(), jobs.worker():
        await call(connection, f"CONSUMER.DELETE.{names.stream(LOW.priority)}.{LOW.consumer}")
        await jobs.submit("work", [1, 2, 3], priority="low", entity="e")
        await eventually(lambda: ran == [1, 2, 3])
    assert "consumers were missing or wrong and were restored: low-1x1-0" in caplog.text
