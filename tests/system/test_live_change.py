"""The shard count of a loaded queue is changed, up and down, while jobs are published and worked by two processes."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_processes import Apps, assert_in_turn, by_entity

from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Generation, Names
from jsjobs.jetstream.topology.generations import live_shards, read_live, read_stored
from jsjobs.model.job import Priority

pytestmark = pytest.mark.long

APPLY = Path(__file__).with_name("app_apply.py")
ENTITIES = 500
ROUNDS = 40
BACKLOG = 2_000
CRITICAL = Priority.CRITICAL


class Load:
    """Publishes 20,000 jobs and more, 500 entities in turn, until it is told to end; the queue is never empty before."""

    def __init__(self, jobs: JobService, apps: Apps, connection: Connection) -> None:
        self._jobs = jobs
        self._apps = apps
        self._connection = connection
        self._names = Names(jobs.config.namespace)
        self.rounds = 0
        self._ending = False
        self.while_changing: set[tuple[Generation, ...]] = set()
        """Lists of generations during which a round was published."""

    async def run(self) -> None:
        while self.rounds < ROUNDS or not self._ending:
            await eventually(self._may_go_on, within=120)
            self.while_changing.add((await read_live(self._connection, self._names, CRITICAL)).generations)
            for entity in range(0, ENTITIES, 100):
                payload = {"n": self.rounds, "seconds": 0.0}
                await asyncio.gather(
                    *(
                        self._jobs.submit("step", payload, entity=f"e{number}", priority=CRITICAL)
                        for number in range(entity, entity + 100)
                    )
                )
            self.rounds += 1

    async def _may_go_on(self) -> bool:
        return await self.left() < BACKLOG

    async def left(self) -> int:
        stored = await read_stored(self._connection, self._names, CRITICAL)
        assert stored is not None
        return stored.jobs.total()

    async def goes_on(self) -> None:
        """Wait for ten more rounds, all but the first begun after this call."""
        rounds = self.rounds + 10

        async def look() -> bool:
            return self.rounds >= rounds

        await eventually(look, within=120)

    async def end(self, publishing: asyncio.Future[None]) -> None:
        """Publish no more, and wait until every job is done."""
        self._ending = True
        await publishing
        await eventually(self._is_empty, within=60)

    async def _is_empty(self) -> bool:
        return await self.left() == 0


async def apply(config: JobService.Config, shards: int, how: str = "whole") -> str:
    """Run `streams apply` to its end; what it printed."""
    environment = bare_environment()
    environment |= {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_NAMESPACE": config.namespace,
        "JSJOBS_ACK_WAIT": str(config.ack_wait),
        "JSJOBS_QUEUE_BYTES": str(config.queue_bytes),
        "JSJOBS_LANE_BYTES": str(config.lane_bytes),
    }
    command = [sys.executable, str(APPLY), how, "--shards", f"critical={shards}", "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(120):
        printed, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return printed.decode()


async def once(config: JobService.Config, shards: int) -> None:
    await apply(config, shards)


async def two_at_once(config: JobService.Config, shards: int) -> None:
    await asyncio.gather(apply(config, shards), apply(config, shards))


async def killed_at_each_step(config: JobService.Config, shards: int) -> None:
    killed = int((await apply(config, shards, "killed")).split()[-1])
    # The list, a consumer each, the stream; then the removed consumers, the list, and at least one that is resumed.
    assert killed > 2 + shards + 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("change", [once, two_at_once, killed_at_each_step])
async def test_4_to_8_to_2_shards_under_load(
    change: Callable[..., Any],
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    apps: Callable[..., Apps],
    connection: Connection,
) -> None:
    config = settings_of(ack_wait=10)
    await deploy(config)
    processes = apps(config)
    async with JobService(config) as jobs:
        load = Load(jobs, processes, connection)
        publishing = asyncio.ensure_future(load.run())
        workers = {(await processes.start()).pid for _ in range(2)}
        await load.goes_on()
        await change(config, 8)
        await load.goes_on()
        await change(config, 2)
        await load.goes_on()
        await load.end(publishing)
    one, two, three = Generation(1, 4), Generation(2, 8), Generation(3, 2)
    assert load.while_changing >= {(one,), (one, two), (two,), (two, three), (three,)}, "jobs were published in between"
    events = by_entity(processes.events())
    assert len(events) == ENTITIES
    for entity, its_events in events.items():
        assert_in_turn(its_events)
        assert [event["n"] for event in its_events if event["event"] == "end"] == list(range(load.rounds)), entity
    assert {event["pid"] for event in processes.events("start")} == workers
    assert all(process.poll() is None for process in processes.processes), "no worker was restarted"
    names = Names(config.namespace)
    assert (await read_live(connection, names, CRITICAL)).generations == (three,)
    assert {shard.generation for shard in await live_shards(connection, names, (CRITICAL,))} == {three}
