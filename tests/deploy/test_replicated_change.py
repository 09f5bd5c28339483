"""The shard count of a loaded queue with three copies is changed: nothing lost, every entity in order."""

import asyncio
import itertools
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import pytest
from nats_cluster import Cluster

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

CRITICAL = Priority.CRITICAL
NAMES = Names("jobs")
ENTITIES = 60
CHANGES = ("$JS.API.STREAM.UPDATE", "$JS.API.CONSUMER.", "$KV.jobs.topology")


class Killed(BaseException):
    """The end of the process that changes the shards."""


class Mortal(Connection):
    """A connection whose owner dies right after its first request that changes something."""

    async def ask_soon(self, subject: bytes, *args: Any, **kwargs: Any) -> Any:
        answer = await super().ask_soon(subject, *args, **kwargs)
        asked = subject.decode()
        if asked.startswith(CHANGES) and not asked.startswith(("$JS.API.CONSUMER.LIST", "$JS.API.CONSUMER.INFO")):
            raise Killed
        return answer


class Load:
    """Publishes one job of every entity in turn, again where the queue is away for a moment, and notes what ran."""

    def __init__(self) -> None:
        self.began: dict[str, list[int]] = defaultdict(list)
        self.running: set[str] = set()
        self.overlaps = 0
        self.published = 0
        self.stop = False

    def register(self, service: JobService) -> None:
        @service.handler("step")
        async def step(number: int, ctx: JobService.Context) -> None:
            entity = str(ctx.entity)
            self.overlaps += entity in self.running
            self.running.add(entity)
            self.began[entity].append(number)
            await asyncio.sleep(0)
            self.running.discard(entity)

    async def publish(self, service: JobService) -> None:
        while not self.stop:
            await eventually(self._may_go_on, within=90)
            await asyncio.gather(*(self._submit(service, f"e{number}") for number in range(ENTITIES)))
            self.published += 1

    async def _may_go_on(self) -> bool:
        # New jobs wait while old shards drain: some rounds may, not all there could be.
        return self.stop or self.published < 15 + min((len(began) for began in self.began.values()), default=0)

    async def _submit(self, service: JobService, entity: str) -> None:
        key = f"{entity}-{self.published}"

        async def submitted() -> bool:
            await service.submit("step", self.published, entity=entity, priority=CRITICAL, dedupe_key=key)
            return True

        await eventually(submitted, within=60)

    def check(self) -> None:
        assert self.overlaps == 0
        for number in range(ENTITIES):
            assert self.began[f"e{number}"] == list(range(self.published)), f"e{number}"


@pytest.mark.timeout(300)
async def test_4_to_8_to_2_shards_with_three_copies_under_load(cluster: Cluster) -> None:
    url = await cluster.form()
    config = Config(nats_url=url, replicas=3, queue_bytes=2**26)
    load, services = Load(), [JobService(config) for _ in range(3)]
    connection = await connect(config)

    def applying(shards: int, over: Connection = connection) -> TopologyReconciler:
        return TopologyReconciler(over, NAMES, config.model_copy(update={"pools": {**config.pools, CRITICAL: shards}}))

    async def applied() -> bool:
        await applying(4).apply()
        return True

    await eventually(applied, within=60)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        for service in services:
            await stack.enter_async_context(service)
        for service in services[:2]:
            load.register(service)
            await stack.enter_async_context(service.worker())
        publishing = asyncio.ensure_future(load.publish(services[2]))
        with pytest.raises(JobService.Error, match=r"nothing was changed, because .*it has 3 copies.*--one-copy"):
            await applying(8).apply()
        assert await state(connection) == (["1x4"], "1x4", 3, None)
        await asyncio.wait_for(applying(8).apply(one_copy=True), 90)
        assert await state(connection) == (["2x8"], "2x8", 3, None)
        for killed in itertools.count():
            over = Mortal()
            await over.open(url)
            try:
                # Leave is given once, at the begin.
                await asyncio.wait_for(applying(2, over).apply(one_copy=killed == 0), 90)
            except Killed:
                continue
            except BaseExceptionGroup as end:
                if end.split(Killed)[1] is not None:
                    raise
                continue
            finally:
                await over.close()
            break
        assert killed > 10
        assert await state(connection) == (["3x2"], "3x2", 3, None)
        load.stop = True
        await publishing
        await eventually(lambda: is_empty(connection), within=60)
    load.check()


async def state(connection: Connection) -> tuple[list[str], str, int, int | None]:
    live = await read_live(connection, NAMES, CRITICAL)
    stored = await read_stored(connection, NAMES, CRITICAL)
    assert stored is not None
    return [str(one) for one in live.generations], str(stored.target), stored.copies, live.copies


async def is_empty(connection: Connection) -> bool:
    return (await call(connection, f"STREAM.INFO.{NAMES.stream(CRITICAL)}"))["state"]["messages"] == 0
