"""Pausing a priority on a real server: what is delivered, what is not, and through changes of the shard count."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from busy_shards import holding

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream import queue_update
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import live_shards, read_live, write_live
from jsjobs.jetstream.pausing import MAX_SECONDS, Pausing
from jsjobs.jetstream.reshard import Draining, Reshard
from jsjobs.jetstream.shard_consumers import FOR_GOOD, UNTIL_RESUMED, pause, paused_until
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.jetstream.topology import Topology
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.settings import Config

LOW, HIGH = Priority.LOW, Priority.HIGH


@pytest.fixture
def pausing(connection: Connection, names: Names) -> Pausing:
    return Pausing(connection, names)


@pytest.fixture
async def submit(config: Config, names: Names) -> Any:
    async with JobService(config) as service:
        yield service.submit


@pytest.fixture(autouse=True)
def _nothing_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_update, "SETTLE", 0.0)


async def shards_of(connection: Connection, names: Names, priority: Priority) -> dict[str, datetime | None]:
    found = await live_shards(connection, names, (priority,))
    return {shard.consumer: paused_until(info) for shard, info in found.items()}


async def test_a_paused_priority_delivers_nothing_until_it_is_resumed(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    paused = await pausing.pause(HIGH)
    assert (paused.priority, paused.until, paused.running) == (HIGH, None, ())
    assert set((await shards_of(connection, names, HIGH)).values()) == {UNTIL_RESUMED}
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await submit("t", list(range(30)), priority="high")
        await submit("t", 1, priority="low")
        # What another priority delivers came after what this one would have.
        await eventually(lambda: asyncio.sleep(0, len(taken) == 1))
        assert b".low-" in taken[0]
        assert await pausing.resume(HIGH)
        assert set((await shards_of(connection, names, HIGH)).values()) == {None}
        await eventually(lambda: asyncio.sleep(0, len(taken) == 1 + 3))
    assert not await pausing.resume(HIGH)


async def test_a_pause_ends_by_itself(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    await submit("t", 1, priority="low")
    begun = datetime.now(UTC)
    paused = await pausing.pause(LOW, 1.5)
    assert paused.until is not None
    assert timedelta(seconds=0.5) < paused.until - begun < timedelta(seconds=15)
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: asyncio.sleep(0, taken))
        info = await call(connection, f"CONSUMER.INFO.{names.stream(LOW)}.low-1x1-0")
        assert datetime.fromisoformat(info["delivered"]["last_active"][:26] + "+00:00") >= paused.until
    assert not await pausing.resume(LOW)


async def test_the_last_word_counts(pausing: Pausing, connection: Connection, names: Names) -> None:
    await pausing.pause(LOW)
    assert await pausing.pause(LOW, 600) != await pausing.pause(LOW, 300)
    (until,) = (await shards_of(connection, names, LOW)).values()
    assert until is not None
    assert until - datetime.now(UTC) < timedelta(seconds=400)
    await asyncio.gather(*(pausing.pause(LOW) for _ in range(5)))
    assert await shards_of(connection, names, LOW) == {"low-1x1-0": UNTIL_RESUMED}
    assert max(await asyncio.gather(*(pausing.resume(LOW) for _ in range(3)))) is True
    assert await shards_of(connection, names, LOW) == {"low-1x1-0": None}
    assert (await read_live(connection, names, LOW)).operators_pause is None


async def test_a_pause_of_another_tool_is_lifted_too(pausing: Pausing, connection: Connection, names: Names) -> None:
    (shard,) = await live_shards(connection, names, (LOW,))
    await pause(connection, names.stream(LOW), shard, datetime.now(UTC) + timedelta(days=1))
    assert await pausing.resume(LOW)
    assert await shards_of(connection, names, LOW) == {"low-1x1-0": None}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), MAX_SECONDS + 1])
async def test_a_pause_lasts_some_time(pausing: Pausing, seconds: float) -> None:
    with pytest.raises(JobError, match="a pause lasts more than 0 seconds and ten years at most") as caught:
        await pausing.pause(LOW, seconds)
    assert caught.value.reason is Reason.VALIDATION


async def test_what_is_not_there_cannot_be_paused(connection: Connection, namespace: str) -> None:
    pausing = Pausing(connection, Names(namespace))
    for doing in (pausing.pause(LOW), pausing.resume(LOW)):
        with pytest.raises(JobError, match=f"no shards of low in namespace '{namespace}': run") as caught:
            await doing
        assert caught.value.reason is Reason.NOT_FOUND


# -- what was delivered before


async def test_a_delivery_that_nobody_began_is_waited_for_until_its_lease_is_over(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    """Whoever has it may begin it at any moment before that; afterwards the server keeps it back."""
    await submit("t", 1, priority="low")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: asyncio.sleep(0, taken))
        delivered = asyncio.get_running_loop().time()
        assert (await pausing.pause(LOW)).running == ()
        assert asyncio.get_running_loop().time() - delivered > 2  # `ack_wait` of these tests
        (info,) = (await live_shards(connection, names, (LOW,))).values()
        assert (info["num_ack_pending"], info["delivered"]["consumer_seq"], len(taken)) == (1, 1, 1)
        await pausing.resume(LOW)
        await eventually(lambda: asyncio.sleep(0, len(taken) == 2))


async def test_a_delivery_that_is_acknowledged_is_waited_for_no_longer(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    await submit("t", 1, priority="low")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: asyncio.sleep(0, taken))
        waiting = asyncio.ensure_future(pausing.pause(LOW))
        await eventually(lambda: is_paused(connection, names))
        assert not waiting.done()
        connection.post(taken[0], b"+ACK")
        assert (await waiting).running == ()


async def is_paused(connection: Connection, names: Names) -> bool:
    return set((await shards_of(connection, names, LOW)).values()) == {UNTIL_RESUMED}


# -- through changes of the shard count


async def test_a_pause_survives_a_change_of_the_shard_count(
    pausing: Pausing, connection: Connection, names: Names, config: Config
) -> None:
    await pausing.pause(HIGH)
    assert await Reshard(connection, names, config, HIGH).run(5)
    shards = await shards_of(connection, names, HIGH)
    assert shards == {f"high-2x5-{number}": UNTIL_RESUMED for number in range(5)}
    assert (await read_live(connection, names, HIGH)).paused_until is None
    assert await pausing.resume(HIGH)
    assert set((await shards_of(connection, names, HIGH)).values()) == {None}
    # It was lifted for ever: the next generation knows nothing of it.
    assert await Reshard(connection, names, config, HIGH).run(2)
    assert await eventually(lambda: settled(connection, names)) == {"high-3x2-0": None, "high-3x2-1": None}


async def test_jobs_behind_a_pause_hold_a_change_up_and_a_resume_in_its_middle_ends_both(
    pausing: Pausing, connection: Connection, names: Names, config: Config, submit: Callable[..., Awaitable[Any]]
) -> None:
    told: list[Draining] = []
    await submit("t", list(range(9)), priority="high")
    await pausing.pause(HIGH)
    changing = asyncio.ensure_future(Reshard(connection, names, config, HIGH, told.append).run(5))
    await eventually(lambda: asyncio.sleep(0, told and told[-1].waits_for == "paused until `jsjobs resume`"))
    shards = await shards_of(connection, names, HIGH)
    assert {until for name, until in shards.items() if "1x3" in name} == {UNTIL_RESUMED}
    assert {until for name, until in shards.items() if "2x5" in name} == {FOR_GOOD}
    async with answering(connection, names) as answered:
        assert await pausing.resume(HIGH)
        assert set((await shards_of(connection, names, HIGH)).values()) <= {None, FOR_GOOD}
        await changing
        assert len(answered) == 9
    assert set((await eventually(lambda: settled(connection, names))).values()) == {None}


async def test_a_pause_in_the_middle_of_a_change_goes_over_to_the_new_shards(
    pausing: Pausing, connection: Connection, names: Names, config: Config, submit: Callable[..., Awaitable[Any]]
) -> None:
    told: list[Draining] = []
    await submit("t", list(range(9)), priority="high")
    changing = asyncio.ensure_future(Reshard(connection, names, config, HIGH, told.append).run(5))
    await eventually(lambda: asyncio.sleep(0, told))
    await pausing.pause(HIGH, 3)  # the old jobs run when it is over
    await pausing.pause(HIGH, 600)
    first = await live_shards(connection, names, (HIGH,))
    assert not changing.done()
    async with answering(connection, names) as answered:
        for shard in first:
            if shard.generation.number == 1:  # somebody lets the old ones run, by hand
                await pause(connection, names.stream(HIGH), shard, datetime.now(UTC) + timedelta(seconds=0.5))
        await changing
        assert len(answered) == 9
        shards = await shards_of(connection, names, HIGH)
        assert set(shards) == {f"high-2x5-{number}" for number in range(5)}
        (until,) = set(shards.values())
        assert until == (await read_live(connection, names, HIGH)).operators_pause
        await submit("t", list(range(9)), priority="high")
        assert await pausing.resume(HIGH)
        await eventually(lambda: asyncio.sleep(0, len(answered) == 18))


class Meddling(Connection):
    """Lets an operator decide something between two steps of a change."""

    meddle: Callable[[], Awaitable[Any]] | None = None
    at = b""

    async def ask(self, subject: bytes, *arguments: Any, **options: Any) -> Any:
        if self.meddle is not None and self.at in subject:
            meddle, self.meddle = self.meddle, None
            await meddle()
        return await super().ask(subject, *arguments, **options)


@pytest.mark.parametrize("at", [b"CONSUMER.PAUSE", b"CONSUMER.DELETE", b"$KV", b"CONSUMER.LIST", b"STREAM.INFO"])
@pytest.mark.parametrize("first", ["running", "paused"])
async def test_a_decision_between_two_steps_of_a_change_is_not_lost(
    pausing: Pausing, connection: Connection, names: Names, config: Config, at: bytes, first: str
) -> None:
    if first == "paused":
        await pausing.pause(HIGH)
    meddling = Meddling()
    await meddling.open(config.nats_url)
    meddling.at = at
    meddling.meddle = (lambda: pausing.resume(HIGH)) if first == "paused" else (lambda: pausing.pause(HIGH))
    assert await Reshard(meddling, names, config, HIGH).run(5)
    await meddling.close()
    assert meddling.meddle is None
    shards = await eventually(lambda: settled(connection, names))
    assert shards == dict.fromkeys(shards, None if first == "paused" else UNTIL_RESUMED)
    live = await read_live(connection, names, HIGH)
    assert (live.operators_pause is None, live.paused_until) == (first == "paused", None)


async def settled(connection: Connection, names: Names) -> dict[str, datetime | None] | None:
    """The shards' pauses, once none of them is about to end."""
    shards = await shards_of(connection, names, HIGH)
    return shards if set(shards.values()) <= {None, UNTIL_RESUMED} else None


# -- shards that are made again


async def test_a_shard_that_is_made_again_is_paused_like_its_siblings(
    pausing: Pausing, connection: Connection, names: Names, config: Config
) -> None:
    await pausing.pause(HIGH)
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await Topology(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": UNTIL_RESUMED for number in range(3)}
    await pausing.resume(HIGH)
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await Topology(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": None for number in range(3)}


async def test_a_pause_that_is_over_pauses_nothing_that_is_made_again(
    connection: Connection, names: Names, config: Config
) -> None:
    live, over = await read_live(connection, names, HIGH), datetime.now(UTC) - timedelta(hours=1)
    await write_live(connection, names, HIGH, replace(live, operators_pause=over))
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await Topology(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": None for number in range(3)}
    assert await Reshard(connection, names, config, HIGH).run(2)
    assert set((await eventually(lambda: settled(connection, names))).values()) == {None}


class answering:  # noqa: N801 - a block
    """Takes every job of a priority's shards, of whatever generation, and acknowledges it."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._sids: dict[Shard, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self.taken: list[bytes] = []

    async def __aenter__(self) -> list[bytes]:
        self._looking = asyncio.create_task(self._look())
        return self.taken

    async def _look(self) -> None:
        while True:
            for shard in set(await live_shards(self._connection, self._names, (HIGH,))) - set(self._sids):
                subject = self._names.deliver(shard).encode()
                self._sids[shard] = await self._connection.receive(subject, self._take, queue="workers")
            await asyncio.sleep(0.02)

    def _take(self, _subject: bytes, reply: bytes, _header: bytes, data: bytes) -> None:
        self.taken.append(data)
        self._connection.post(reply, b"+ACK")

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        for sid in self._sids.values():
            await self._connection.stop_receiving(sid, drain=False)
