"""Pausing a priority on a real server: what is delivered, what is not, and what is waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from busy_shards import holding
from paused_shards import settled, shards_of

from facts import eventually
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology import consumers
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.jetstream.topology.generations import live_shards, read_live, write_live
from jsjobs.jetstream.topology.pause import MAX_SECONDS, Pausing
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.topology.reshard import Reshard
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.settings import Config

LOW, HIGH = Priority.LOW, Priority.HIGH


async def test_a_paused_priority_delivers_nothing_until_it_is_resumed(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    paused = await pausing.pause(HIGH)
    assert (paused.priority, paused.until, paused.running) == (HIGH, None, ())
    assert set((await shards_of(connection, names, HIGH)).values()) == {UNTIL_RESUMED}
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        for number in range(30):
            await submit("t", number, priority="high", entity=f"e-{number}")
        await submit("t", 1, priority="low", entity="e")
        # What another priority delivers came after what this one would have.
        await eventually(lambda: len(taken) == 1)
        assert b".low-" in taken[0]
        assert await pausing.resume(HIGH)
        assert set((await shards_of(connection, names, HIGH)).values()) == {None}
        await eventually(lambda: len(taken) == 1 + 3)
    assert not await pausing.resume(HIGH)


@pytest.mark.parametrize("moment", [0.5, 1e-6], ids=["in time", "later than the pause was to end"])
async def test_a_resumed_priority_delivers_at_once(
    pausing: Pausing,
    connection: Connection,
    names: Names,
    submit: Callable[..., Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
    moment: float,
) -> None:
    """The server delivers nothing after a pause that is merely lifted, though somebody listens and jobs wait."""
    monkeypatch.setattr(consumers, "MOMENT", moment)
    async with holding(connection, names, *await live_shards(connection, names, (LOW,))) as taken:
        await pausing.pause(LOW)
        await submit("t", 1, priority="low", entity="e")
        assert await pausing.resume(LOW)
        await eventually(lambda: taken, within=10)


async def test_a_pause_ends_by_itself(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    await submit("t", 1, priority="low", entity="e")
    begun = datetime.now(UTC)
    paused = await pausing.pause(LOW, 1.5)
    assert paused.until is not None
    assert timedelta(seconds=0.5) < paused.until - begun < timedelta(seconds=15)
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: taken)
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


async def test_those_who_decide_at_once_come_to_one_end(pausing: Pausing, connection: Connection, names: Names) -> None:
    for _ in range(15):
        outcomes = await asyncio.gather(
            pausing.pause(HIGH, 600),
            pausing.pause(HIGH, 300),
            pausing.resume(HIGH),
            pausing.pause(HIGH),
            pausing.resume(HIGH),
            return_exceptions=True,
        )
        noted = (await read_live(connection, names, HIGH)).operators_pause
        assert set((await shards_of(connection, names, HIGH)).values()) == {noted}
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                assert str(outcome).endswith("high was resumed by another process meanwhile")


async def test_a_pause_of_another_tool_is_lifted_too(pausing: Pausing, connection: Connection, names: Names) -> None:
    (shard,) = await live_shards(connection, names, (LOW,))
    await pause_consumer(connection, names.stream(LOW), shard.consumer, datetime.now(UTC) + timedelta(days=1))
    assert await pausing.resume(LOW)
    assert await shards_of(connection, names, LOW) == {"low-1x1-0": None}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), MAX_SECONDS + 1])
async def test_a_pause_lasts_some_time(pausing: Pausing, seconds: float) -> None:
    with pytest.raises(JobError, match="a pause must last more than 0 seconds and at most ten years") as caught:
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
    await submit("t", 1, priority="low", entity="e")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: taken)
        delivered = asyncio.get_running_loop().time()
        assert (await pausing.pause(LOW)).running == ()
        assert asyncio.get_running_loop().time() - delivered > 2  # `ack_wait` of these tests
        (info,) = (await live_shards(connection, names, (LOW,))).values()
        assert (info.num_ack_pending, info.delivered.consumer_seq, len(taken)) == (1, 1, 1)
        await pausing.resume(LOW)
        await eventually(lambda: len(taken) == 2)


async def test_a_delivery_that_is_acknowledged_is_waited_for_no_longer(
    pausing: Pausing, connection: Connection, names: Names, submit: Callable[..., Awaitable[Any]]
) -> None:
    await submit("t", 1, priority="low", entity="e")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: taken)
        waiting = asyncio.ensure_future(pausing.pause(LOW))
        await eventually(lambda: is_paused(connection, names))
        assert not waiting.done()
        connection.post(taken[0], b"+ACK")
        assert (await waiting).running == ()


@pytest.mark.parametrize("status", ["failed", "processing", "queued"])
async def test_a_lost_worker_s_entry_is_not_taken_for_a_running_job(
    connection: Connection,
    names: Names,
    state: StateStore,
    submit: Callable[..., Awaitable[Any]],
    status: str,
) -> None:
    """Its job was delivered again: what counts is what the next worker, which waits for the lease's end, makes of it."""
    pausing = Pausing(connection, names)
    job_id = await submit("t", 1, priority="low", entity="e")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: taken)
        lost = JobStatusResponse(job_id=job_id, status=Status.QUEUED, type="t").started(utc_now(), "lost")
        revision = await state.write(lost, expected=0)
        await eventually(lambda: len(taken) == 2)
        waiting = asyncio.ensure_future(pausing.pause(LOW))
        await eventually(lambda: is_paused(connection, names))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done(), "the lost worker's entry was believed"
        again = lost.retried(utc_now(), "lost", due=utc_now(), retry=None)
        match status:
            case "failed":
                await state.write(lost.failed(utc_now(), "MaxRetries", "lost"), expected=revision)
            case "processing":
                await state.write(again.started(utc_now(), "next"), expected=revision)
            case "queued":  # and the next worker is as dead
                await state.write(again, expected=revision)
        assert (await waiting).running == ((job_id,) if status == "processing" else ())


async def test_a_lost_worker_s_entry_holds_up_no_pause_for_longer_than_its_lease(
    connection: Connection, names: Names, state: StateStore, submit: Callable[..., Awaitable[Any]]
) -> None:
    """No other worker is there to make anything of it."""
    job_id = await submit("t", 1, priority="low", entity="e")
    async with holding(connection, names, *await live_shards(connection, names)) as taken:
        await eventually(lambda: taken)
        lost = JobStatusResponse(job_id=job_id, status=Status.QUEUED, type="t").started(utc_now(), "lost")
        await state.write(lost, expected=0)
        await eventually(lambda: len(taken) == 2)
    waiting = asyncio.ensure_future(Pausing(connection, names).pause(LOW))
    await asyncio.wait({waiting}, timeout=2 + 1 + 5)  # `ack_wait`, what is granted beyond it, and some
    assert waiting.done()
    assert (await waiting).running == (job_id,), "as far as its entry tells"


async def is_paused(connection: Connection, names: Names) -> bool:
    return set((await shards_of(connection, names, LOW)).values()) == {UNTIL_RESUMED}


# -- shards that are made again


async def test_a_shard_that_is_made_again_is_paused_like_its_siblings(
    pausing: Pausing, connection: Connection, names: Names, config: Config
) -> None:
    await pausing.pause(HIGH)
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await TopologyReconciler(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": UNTIL_RESUMED for number in range(3)}
    await pausing.resume(HIGH)
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await TopologyReconciler(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": None for number in range(3)}


async def test_a_pause_that_is_over_pauses_nothing_that_is_made_again(
    connection: Connection, names: Names, config: Config
) -> None:
    live, over = await read_live(connection, names, HIGH), datetime.now(UTC) - timedelta(hours=1)
    await write_live(connection, names, HIGH, replace(live, operators_pause=over))
    await call(connection, f"CONSUMER.DELETE.{names.stream(HIGH)}.high-1x3-1")
    await TopologyReconciler(connection, names, config).apply()
    assert await shards_of(connection, names, HIGH) == {f"high-1x3-{number}": None for number in range(3)}
    assert await Reshard(connection, names, config, HIGH).run(2)
    assert set((await eventually(lambda: settled(connection, names))).values()) == {None}
