"""A shard that nats-server leaves asleep after a crash goes on, though nobody publishes.

The scene hits the moment by chance, in about one try of ten on a quiet machine, so it is tried until it does. That is why
it is run by hand, with `just stalled-shard`; tests/maintenance/test_consumer_guard.py has the same stall without a crash.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

pytestmark = [pytest.mark.chance, pytest.mark.timeout(600)]

TRIES = 10
AT_ONCE = 4
ACK_WAIT = 3.0
SHARD, OTHER = Shard.of("normal-1x2-0"), Shard.of("normal-1x2-1")


class Asleep:
    """A shard in which jobs wait and none is delivered, with a listener that gets none."""

    def __init__(self, server: NatsServer, client: Client, got: list[Msg], waiting: int) -> None:
        self.server, self.client, self.got, self.waiting = server, client, got, waiting


async def _entity_of(client: Client, connection: Any, names: Names, shard: Shard) -> str:
    """An entity whose jobs go to a shard."""
    for number in range(50):
        ack = await client.jetstream().publish(f"{names.namespace}.normal.e{number}.wait", b"1")
        message = await call(connection, f"STREAM.MSG.GET.{names.stream(shard.priority)}", {"seq": ack.seq})
        if f".{shard.generation}.{shard.number}." in message["message"]["subject"]:
            return f"e{number}"
    raise AssertionError("no entity of this shard")


@contextlib.asynccontextmanager
async def _one_try(folder: Path, config: JobService.Config) -> AsyncIterator[Asleep | None]:
    """Let the server die just after it removed an acknowledged job, with older jobs of another shard in the queue."""
    names = Names(config.namespace)
    stream, info_of = names.stream(SHARD.priority), f"CONSUMER.INFO.{names.stream(SHARD.priority)}.{SHARD.consumer}"
    with NatsServer(folder) as server:
        dead = asyncio.Event()
        async with connected(config.model_copy(update={"nats_url": server.url})) as connection:
            await TopologyReconciler(connection, names, config).apply()
            client = await nats.connect(server.url, allow_reconnect=False, error_cb=_ignore)
            other = await _entity_of(client, connection, names, OTHER)
            entity = await _entity_of(client, connection, names, SHARD)
            await call(connection, f"STREAM.PURGE.{stream}", {})
            for number in range(40):
                await client.jetstream().publish(f"{names.namespace}.normal.{entity if number else other}.wait", b"1")
            first = (await call(connection, f"STREAM.INFO.{stream}"))["state"]["first_seq"]
            count = 0

            async def work(message: Msg) -> None:
                nonlocal count
                count += 1
                if count <= 10:
                    await message.ack()
                elif count == 11:
                    await asyncio.sleep(1.5)  # until this delivery is in the consumer's file
                    await client.publish(message.reply, b"+ACK")
                    await client.flush()
                    os.kill(server.pid, signal.SIGKILL)  # at once: in a moment the consumer's file says so too
                    dead.set()

            await client.subscribe(names.deliver(SHARD), queue="workers", cb=work)
            await asyncio.wait_for(dead.wait(), 15)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with connected(config.model_copy(update={"nats_url": server.url})) as connection:
            client, got = await nats.connect(server.url, error_cb=_ignore), []

            async def listen(message: Msg) -> None:
                got.append(message)
                await message.ack()

            await client.subscribe(names.deliver(SHARD), queue="workers", cb=listen)
            await asyncio.sleep(0.5)
            await call(connection, f"STREAM.MSG.DELETE.{stream}", {"seq": first})  # the other shard's job has ended
            await asyncio.sleep(ACK_WAIT + 3)
            info = await call(connection, info_of)
            stalled = bool(info["num_pending"]) and not got
            yield Asleep(server, client, got, info["num_pending"]) if stalled else None
            await client.close()


async def _ignore(_: Exception) -> None:
    pass


@contextlib.asynccontextmanager
async def asleep(folder: Path, config: JobService.Config) -> AsyncIterator[Asleep]:
    """A stalled shard, as a crash of the server leaves one now and then."""
    for number in range(TRIES):
        async with contextlib.AsyncExitStack() as stack:
            tries = [_one_try(folder / f"{number}-{place}", config) for place in range(AT_ONCE)]
            found = await asyncio.gather(*(stack.enter_async_context(one) for one in tries))
            stalled = [shard for shard in found if shard is not None]
            if stalled:
                yield stalled[0]
                return
    raise AssertionError(f"{TRIES * AT_ONCE} tries, and no shard stalled: does this server still have the fault?")


@pytest.mark.parametrize("who", ["router", "worker"])
async def test_a_stalled_shard_goes_on_by_itself(
    who: str, tmp_path: Path, settings_of: Callable[..., JobService.Config], caplog: pytest.LogCaptureFixture
) -> None:
    config = settings_of(namespace="jobs", ack_wait=ACK_WAIT)
    async with asleep(tmp_path, config) as shard:
        # Nothing stirs it by itself: it has slept for seconds, and another listener does not wake it either.
        async with _listening(shard.client, Names("jobs").deliver(SHARD), shard.got):
            await asyncio.sleep(2)
        assert shard.got == []
        service = JobService(config.model_copy(update={"nats_url": shard.server.url}))
        ran: list[int] = []

        @service.handler("wait")
        async def wait(payload: int) -> None:
            ran.append(payload)

        began = time.monotonic()
        async with service, service.router() if who == "router" else service.worker():
            await eventually(lambda: len(shard.got) + len(ran) >= shard.waiting, within=15)
        assert time.monotonic() - began < 5
        assert f"{SHARD.consumer}: messages waited and none was delivered; it was woken" in caplog.text
        assert len(shard.got) + len(ran) == shard.waiting


@contextlib.asynccontextmanager
async def _listening(client: Client, subject: str, got: list[Msg]) -> AsyncIterator[None]:
    async def listen(message: Msg) -> None:
        got.append(message)

    subscription = await client.subscribe(subject, queue="workers", cb=listen)
    yield
    await subscription.unsubscribe()
