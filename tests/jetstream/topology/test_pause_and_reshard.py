"""A pause through changes of the shard count: it is neither lost nor lasts longer than it was asked to."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from paused_shards import answering, settled, shards_of

from facts import eventually
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology import reshard
from jsjobs.jetstream.topology.consumers import FOR_GOOD, UNTIL_RESUMED
from jsjobs.jetstream.topology.generations import live_shards, read_live
from jsjobs.jetstream.topology.pause import Pausing
from jsjobs.jetstream.topology.reshard import Draining, Reshard
from jsjobs.model.job import Priority
from jsjobs.settings import Config

HIGH = Priority.HIGH


@pytest.fixture(autouse=True)
def _nothing_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard, "SETTLE", 0.0)


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
    await submit("t", list(range(9)), priority="high", entity="e")
    await pausing.pause(HIGH)
    changing = asyncio.ensure_future(Reshard(connection, names, config, HIGH, told.append).run(5))
    await eventually(lambda: told and told[-1].waits_for == "paused until `jsjobs resume`")
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
    await submit("t", list(range(9)), priority="high", entity="e")
    changing = asyncio.ensure_future(Reshard(connection, names, config, HIGH, told.append).run(5))
    await eventually(lambda: told)
    await pausing.pause(HIGH, 3)  # the old jobs run when it is over
    await pausing.pause(HIGH, 600)
    first = await live_shards(connection, names, (HIGH,))
    assert not changing.done()
    async with answering(connection, names) as answered:
        for shard in first:
            if shard.generation.number == 1:  # somebody lets the old ones run, by hand
                await pause_consumer(
                    connection, names.stream(HIGH), shard.consumer, datetime.now(UTC) + timedelta(seconds=0.5)
                )
        await changing
        assert len(answered) == 9
        shards = await shards_of(connection, names, HIGH)
        assert set(shards) == {f"high-2x5-{number}" for number in range(5)}
        (until,) = set(shards.values())
        assert until == (await read_live(connection, names, HIGH)).operators_pause
        await submit("t", list(range(9)), priority="high", entity="e")
        assert await pausing.resume(HIGH)
        await eventually(lambda: len(answered) == 18)


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
