"""Changing the shard count of a live queue: every step, every crash between two steps, and pauses."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from facts import eventually
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology import reshard
from jsjobs.jetstream.topology.consumers import FOR_GOOD, GenerationConsumers
from jsjobs.jetstream.topology.generations import live_shards, read_live, read_stored, write_live
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.topology.reshard import Draining, Reshard, update_queue
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.settings import Config

HIGH = Priority.HIGH
ENTITIES = 12


class Bench:
    """A queue of three shards, and a taker of jobs that counts how they come."""

    def __init__(self, connection: Connection, config: Config) -> None:
        self.connection = connection
        self.config = config
        self.names = Names(config.namespace)
        self.stream = self.names.stream(HIGH)
        self.queue = JobQueue(connection, self.names)
        self.numbers = itertools.count()
        self.taken: list[tuple[str, int]] = []
        self.told: list[Draining] = []
        self._sids: list[int] = []

    def reshard(self, connection: Connection | None = None) -> Reshard:
        return Reshard(connection or self.connection, self.names, self.config, HIGH, self.told.append)

    async def publish(self, rounds: int = 1) -> None:
        """Each round one job of every entity, numbered in the order submitted."""
        for _ in range(rounds):
            number = next(self.numbers)
            for entity in range(ENTITIES):
                job = self.queue.job(HIGH, f"e{entity}", "count", f"e{entity} {number}".encode())
                await self.queue.publish(job)

    async def take(self) -> None:
        """Begin to take jobs of every generation there will be."""
        for generation in [Generation(1, 3), *(Generation(n, count) for n in range(2, 9) for count in (1, 2, 3, 5, 6))]:
            for number in range(generation.shards):
                subject = f"{self.names.namespace}.deliver.high.{generation}.{number}".encode()
                self._sids.append(await self.connection.receive(subject, self._on_delivery, queue="workers"))

    def _on_delivery(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        entity, _, number = data.decode().partition(" ")
        self.taken.append((entity, int(number)))
        self.connection.post(reply, b"+ACK")

    async def all_taken(self) -> None:
        expected = next(self.numbers) * ENTITIES

        async def look() -> bool:
            return len(self.taken) == expected

        await eventually(look)
        for entity in range(ENTITIES):
            numbers = [number for name, number in self.taken if name == f"e{entity}"]
            assert numbers == sorted(set(numbers)), f"e{entity} came out of order"

    async def generations(self) -> list[str]:
        return [str(generation) for generation in (await read_live(self.connection, self.names, HIGH)).generations]

    async def consumers(self) -> dict[str, datetime | None]:
        found = await live_shards(self.connection, self.names, (HIGH,))
        return {shard.consumer: info.paused_until for shard, info in found.items()}

    async def target(self) -> str:
        stored = await read_stored(self.connection, self.names, HIGH)
        assert stored is not None
        return str(stored.target)

    async def assert_only(self, generation: str) -> None:
        """Only this generation is left: its consumers run, new jobs go to it, nothing stands elsewhere."""
        count = int(generation.partition("x")[2])
        assert await self.generations() == [generation]
        assert await self.target() == generation
        now = datetime.now(UTC)
        consumers = await self.consumers()
        assert set(consumers) == {f"high-{generation}-{number}" for number in range(count)}
        assert all(until is None or until < now + timedelta(seconds=30) for until in consumers.values()), consumers
        stored = await read_stored(self.connection, self.names, HIGH)
        assert stored is not None
        assert {str(found) for found in stored.jobs} <= {generation}
        assert (await read_live(self.connection, self.names, HIGH)).paused_until is None


@pytest.fixture
async def bench(
    connection: Connection, config: Config, deploy: Callable[[Config], Any], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    # No update is under way here that was decided before: nothing has to settle.
    monkeypatch.setattr(reshard, "SETTLE", 0.0)
    await deploy(config)
    return Bench(connection, config)


async def test_a_loaded_queue_gets_more_shards_and_fewer_and_keeps_its_order(bench: Bench) -> None:
    await bench.publish(10)
    growing = asyncio.ensure_future(bench.reshard().run(6))

    async def moved() -> bool:
        return await bench.target() == "2x6"

    await eventually(moved)
    await bench.publish(10)
    assert not growing.done()
    assert await bench.generations() == ["1x3", "2x6"]
    waiting = {name: until for name, until in (await bench.consumers()).items() if "2x6" in name}
    assert len(waiting) == 6
    assert set(waiting.values()) == {FOR_GOOD}
    assert bench.told[-1] == Draining(HIGH, Generation(1, 3), Generation(2, 6), 120, "no worker listens")
    await bench.take()
    await asyncio.wait_for(growing, 20)
    await bench.assert_only("2x6")
    await bench.publish(5)
    await bench.all_taken()
    assert await bench.reshard().run(1)
    await bench.assert_only("3x1")
    await bench.publish(2)
    assert await bench.reshard().run(1), "and once more does nothing"
    await bench.assert_only("3x1")


class Cut(BaseException):
    """The end of the process that changes the shards."""


class CutOff(Connection):
    """A connection whose owner dies before, or just after, its n-th request that changes something."""

    changes = (
        b"$JS.API.STREAM.UPDATE",
        b"$JS.API.CONSUMER.DURABLE",
        b"$JS.API.CONSUMER.PAUSE",
        b"$JS.API.CONSUMER.DELETE",
        b"$KV.",
    )

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    async def ask(self, subject: bytes, *args: Any, **kwargs: Any) -> Any:
        if not subject.startswith(self.changes):
            return await super().ask(subject, *args, **kwargs)
        self.left -= 1
        if self.left == 0:
            raise Cut("before")
        if self.left == -1:
            raise AssertionError("dead already")
        return await super().ask(subject, *args, **kwargs)


@pytest.mark.parametrize("first", range(1, 17))
async def test_whoever_is_killed_at_any_step_leaves_a_change_that_the_next_one_finishes(
    bench: Bench, first: int, nats_server: Any
) -> None:
    """3 to 2 shards, killed before its n-th request; run again, killed one request later, until one gets through."""
    await bench.publish(3)
    await bench.take()
    for step in itertools.count(first):
        connection = CutOff(step)
        await connection.open(nats_server.url)
        try:
            await asyncio.wait_for(bench.reshard(connection).run(2), 20)
        except Cut:
            if len(await bench.generations()) > 1:  # those that wait do so from their first moment on
                waiting = {until for name, until in (await bench.consumers()).items() if "2x2" in name}
                assert waiting <= {FOR_GOOD}
            await bench.publish(1)
        else:
            break
        finally:
            await connection.close()
    await bench.assert_only("2x2")
    await bench.publish(1)
    await bench.all_taken()


@pytest.mark.parametrize("wanted", [(6, 6), (6, 2), (1, 5)])
async def test_two_at_once(bench: Bench, nats_server: Any, wanted: tuple[int, int]) -> None:
    await bench.publish(20)
    other = Connection()
    await other.open(nats_server.url)
    both = asyncio.gather(bench.reshard().run(wanted[0]), bench.reshard(other).run(wanted[1]))
    await bench.publish(20)
    await bench.take()
    assert await asyncio.wait_for(both, 30) == [True, True]
    await other.close()
    (last,) = await bench.generations()
    assert last in {f"{number}x{count}" for number in (2, 3) for count in wanted}
    assert last.startswith("2x") == (wanted[0] == wanted[1]), "each of two counts was there once"
    await bench.assert_only(last)
    await bench.all_taken()


async def test_an_unfinished_change_is_finished_before_another_begins(bench: Bench) -> None:
    await bench.publish(4)
    assert not await bench.reshard().run(6, wait=False)
    await bench.publish(4)
    assert not await bench.reshard().run(3, wait=False), "going back is a change of its own"
    assert await bench.generations() == ["1x3", "2x6"]
    assert await bench.target() == "2x6"
    await bench.take()
    assert await asyncio.wait_for(bench.reshard().run(3), 20)
    await bench.assert_only("3x3")
    await bench.all_taken()


async def test_finishing_begins_nothing(bench: Bench) -> None:
    assert await bench.reshard().run()
    await bench.assert_only("1x3")
    await bench.publish(2)
    assert not await bench.reshard().run(2, wait=False)
    assert not await bench.reshard().run(wait=False)
    await bench.take()
    topology = TopologyReconciler(bench.connection, bench.names, bench.config)
    await asyncio.wait_for(topology.finish(), 20)
    await bench.assert_only("2x2")


async def test_an_operators_pause_goes_over_to_the_new_shards(bench: Bench) -> None:
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    for shard in await live_shards(bench.connection, bench.names, (HIGH,)):
        await pause_consumer(bench.connection, bench.stream, shard.consumer, tomorrow)
    assert await bench.reshard().run(2)
    assert await bench.consumers() == {"high-2x2-0": tomorrow, "high-2x2-1": tomorrow}
    assert (await read_live(bench.connection, bench.names, HIGH)).paused_until is None
    assert await bench.reshard().run(), "which is no leftover of a change"
    assert set((await bench.consumers()).values()) == {tomorrow}


async def test_jobs_behind_an_operators_pause_are_waited_for(bench: Bench) -> None:
    await bench.publish(1)
    await bench.take()
    await bench.publish(1)
    await bench.all_taken()
    bench.numbers = itertools.count(5)
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    shards = await live_shards(bench.connection, bench.names, (HIGH,))
    for shard in shards:
        await pause_consumer(bench.connection, bench.stream, shard.consumer, tomorrow)
    await bench.publish(1)
    async with asyncio.timeout(20):
        assert not await bench.reshard().run(2, wait=False)
    assert f"paused until {tomorrow:%Y-%m-%d %H:%M:%S} UTC" == bench.told[-1].waits_for
    assert len(bench.taken) == 2 * ENTITIES


async def test_a_pause_of_waiting_shards_is_kept_until_they_run_and_they_never_run_early(bench: Bench) -> None:
    await bench.publish(1)
    assert not await bench.reshard().run(2, wait=False)
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    for shard in await live_shards(bench.connection, bench.names, (HIGH,)):
        if shard.generation.number == 2:
            await pause_consumer(bench.connection, bench.stream, shard.consumer, soon)
    assert not await bench.reshard().run(wait=False)
    assert {until for name, until in (await bench.consumers()).items() if "2x2" in name} == {FOR_GOOD}
    await bench.take()
    assert await asyncio.wait_for(bench.reshard().run(), 20)
    assert set((await bench.consumers()).values()) == {soon}


async def test_jobs_on_a_removed_generation_are_found_and_run_in_between(bench: Bench) -> None:
    """A tool that wrote an old configuration back sends new jobs to shards that are gone."""
    old = (await call(bench.connection, f"STREAM.INFO.{bench.stream}"))["config"]
    await bench.reshard().run(2)
    await bench.publish(2)
    await call(bench.connection, f"STREAM.UPDATE.{bench.stream}", old)
    await bench.publish(2)
    assert await bench.target() == "1x3"
    plan = await TopologyReconciler(bench.connection, bench.names, bench.config).plan()
    assert [step.name for step in plan if step.kind == "shards"] == ["high"]
    assert not await bench.reshard().run(wait=False)
    assert await bench.generations() == ["2x2", "1x3", "3x2"]
    assert await bench.target() == "3x2"
    await bench.publish(2)
    await bench.take()
    await asyncio.wait_for(bench.reshard().run(), 20)
    await bench.assert_only("3x2")
    await bench.all_taken()


async def test_a_generation_that_gets_a_job_while_it_is_removed_is_drained_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the count of what is left and the removal a tool wrote an old configuration back for a moment."""
    old = (await call(bench.connection, f"STREAM.INFO.{bench.stream}"))["config"]
    remove, removed = GenerationConsumers.remove, list[str]()

    async def removing(consumers: GenerationConsumers, shard: Shard) -> None:
        await remove(consumers, shard)
        removed.append(shard.consumer)
        if len(removed) == 1:
            new = (await call(bench.connection, f"STREAM.INFO.{bench.stream}"))["config"]
            await call(bench.connection, f"STREAM.UPDATE.{bench.stream}", old)
            await bench.publish(2)
            await call(bench.connection, f"STREAM.UPDATE.{bench.stream}", new)

    monkeypatch.setattr(GenerationConsumers, "remove", removing)
    assert not await bench.reshard().run(2, wait=False)
    assert len(removed) == 3
    assert await bench.generations() == ["1x3", "2x2"], "it went with its jobs"
    await bench.publish(2)
    await bench.take()
    assert await asyncio.wait_for(bench.reshard().run(), 20)
    await bench.assert_only("2x2")
    await bench.all_taken()


async def test_generations_that_nobody_knows_of_are_run_oldest_first(bench: Bench) -> None:
    """Somebody wrote a list that has forgotten two generations with jobs of the same entities."""
    await bench.publish(2)
    assert not await bench.reshard().run(6, wait=False)
    await bench.publish(2)
    live = await read_live(bench.connection, bench.names, HIGH)
    await write_live(bench.connection, bench.names, HIGH, replace(live, generations=(Generation(3, 2),)))
    assert not await bench.reshard().run(wait=False)
    assert await bench.generations() == ["1x3", "2x6", "4x2"], "3x2 held nothing"
    await bench.publish(2)
    await bench.take()
    assert await asyncio.wait_for(bench.reshard().run(), 20)
    await bench.all_taken()
    await bench.assert_only("4x2")


async def test_a_generation_behind_one_that_nobody_knows_of_has_a_number_of_its_own(bench: Bench) -> None:
    """Somebody wrote the list back from before a change: the number after its last is taken."""
    await bench.publish(2)
    before = await read_live(bench.connection, bench.names, HIGH)
    assert not await bench.reshard().run(6, wait=False)
    await bench.publish(2)
    live = await read_live(bench.connection, bench.names, HIGH)
    await write_live(bench.connection, bench.names, HIGH, replace(live, generations=before.generations))
    assert not await bench.reshard().run(wait=False)
    assert await bench.generations() == ["1x3", "2x6", "3x3"]
    await bench.publish(2)
    await bench.take()
    assert await asyncio.wait_for(bench.reshard().run(), 20)
    await bench.all_taken()
    await bench.assert_only("3x3")


async def test_a_lost_list_is_made_again_from_what_the_queue_holds(bench: Bench) -> None:
    await bench.publish(2)
    assert not await bench.reshard().run(6, wait=False)
    await bench.publish(2)
    await find(bench.connection, f"STREAM.PURGE.{bench.names.state_stream}")
    topology = TopologyReconciler(bench.connection, bench.names, bench.config)
    steps = await topology.apply(wait=False)
    assert "generations" in {step.kind for step in steps if step.action == "create"}
    assert (await bench.generations())[:2] == ["1x3", "2x6"]
    await bench.take()
    await asyncio.wait_for(topology.apply(), 20)
    await bench.all_taken()


async def test_a_list_that_nobody_can_read_is_said_and_left_alone(bench: Bench) -> None:
    key = bench.names.topology_key(HIGH)
    for nonsense in (b"{}", b"[1]", b'{"generations": ["0x1"]}', b'{"generations": "1x3"}', b"\xff"):
        await bench.connection.ask(f"$KV.{bench.names.bucket}.{key}".encode(), nonsense)
        with pytest.raises(
            JobError, match=rf"the entry {key} in the bucket .* cannot be read: run `jsjobs streams apply`"
        ):
            await bench.reshard().run(2)


async def test_other_settings_of_a_queue_follow_the_list_too(bench: Bench) -> None:
    """An update that knew only the older list must not send new jobs back to old shards."""
    await bench.publish(1)
    live = await read_live(bench.connection, bench.names, HIGH)
    await write_live(
        bench.connection, bench.names, HIGH, replace(live, generations=(*live.generations, Generation(2, 2)))
    )
    await update_queue(bench.connection, bench.names, bench.config, HIGH, {"max_msgs_per_subject": 5000})
    info = await call(bench.connection, f"STREAM.INFO.{bench.stream}")
    assert info["config"]["max_msgs_per_subject"] == 5000
    assert await bench.target() == "2x2"


async def test_a_half_resumed_generation_is_resumed(bench: Bench) -> None:
    shards = list(await live_shards(bench.connection, bench.names, (HIGH,)))
    await pause_consumer(bench.connection, bench.stream, shards[0].consumer, FOR_GOOD)
    await bench.publish(3)
    await bench.take()
    assert await bench.reshard().run()
    await bench.all_taken()
    await bench.assert_only("1x3")
