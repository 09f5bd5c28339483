"""`jsjobs queues`, `pause` and `resume`: the real commands."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cli_process import Cli
from terminal import at_terminal

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards


def of(queues: list[dict[str, Any]], priority: str) -> dict[str, Any]:
    return next(queue for queue in queues if queue["priority"] == priority)


def partitions(priority: str) -> list[str]:
    return [f"{priority}-parallel-{number}" for number in range(4)]


async def test_every_priority_and_shard_is_shown_with_what_waits_in_it(cli: Cli, config: JobService.Config) -> None:
    empty = await cli.run("queues")
    assert empty.code == 0
    words = [line.split() for line in empty.out.splitlines()]
    assert words[0] == ["priority", "waiting", "oldest", "running", "redelivered"]
    assert [line[0] for line in words[1:]] == [
        *("critical", "critical-1x4-0", "critical-1x4-1", "critical-1x4-2", "critical-1x4-3", *partitions("critical")),
        *("high", "high-1x3-0", "high-1x3-1", "high-1x3-2", *partitions("high")),
        *("normal", "normal-1x2-0", "normal-1x2-1", *partitions("normal")),
        *("low", "low-1x1-0", *partitions("low")),
    ]
    assert "no worker" in empty.out
    async with JobService(config) as jobs:
        await jobs.submit("sleep", 0, priority="low")
        for entity in "abcdefgh":
            await jobs.submit("sleep", 0, priority="high", entity=entity)
            await jobs.submit("sleep", 0, priority="high", entity=entity)
        first = (await jobs.status(await jobs.submit("sleep", 0, priority="normal"))).created_at
    queues = json.loads((await cli.run("queues", "--json")).out)
    assert [queue["priority"] for queue in queues] == ["critical", "high", "normal", "low"]
    assert [(each["name"], each["waiting"]) for each in of(queues, "low")["partitions"]] == [
        (name, int(name == "low-parallel-0")) for name in partitions("low")
    ]
    assert of(queues, "low")["partitions"][0]["oldest_waiting_seconds"] == of(queues, "low")["oldest_waiting_seconds"]
    high = of(queues, "high")
    assert (high["waiting"], high["running"], high["redelivered"], high["paused"]) == (16, 0, 0, False)
    assert sum(shard["waiting"] for shard in high["shards"]) == 16
    ages = [shard["oldest_waiting_seconds"] for shard in high["shards"]]
    assert all((age is not None) == (shard["waiting"] > 0) for age, shard in zip(ages, high["shards"], strict=True))
    assert high["oldest_waiting_seconds"] == pytest.approx(max(age for age in ages if age is not None), abs=5)
    assert first is not None
    waited = (datetime.now(UTC) - first).total_seconds()
    assert 0 <= of(queues, "normal")["oldest_waiting_seconds"] <= waited + 1
    assert of(queues, "critical")["oldest_waiting_seconds"] is None
    assert not any(shard["has_worker"] or shard["is_next"] for queue in queues for shard in queue["shards"])


async def test_running_and_redelivered_jobs_are_shown(cli: Cli, config: JobService.Config) -> None:
    async with JobService(config) as jobs:
        tries = []

        @jobs.handler("second-time-lucky")
        async def hold(payload: Any, ctx: JobService.Context) -> None:
            tries.append(ctx.attempt)
            if ctx.attempt == 1:
                raise ValueError("again")
            await asyncio.sleep(60)

        await jobs.submit("second-time-lucky", [1, 2], priority="low", entity="e", duration="long")
        async with jobs.worker():
            await eventually(lambda: tries == [1, 2])
            low = of(json.loads((await cli.run("queues", "--json")).out), "low")
            (shard,) = low["shards"]
            assert (low["waiting"], low["running"], low["redelivered"]) == (1, 1, 1)
            assert (shard["waiting"], shard["running"], shard["redelivered"], shard["has_worker"]) == (1, 1, 1, True)


async def test_a_job_that_waits_for_its_retry_is_not_counted_as_running(cli: Cli, config: JobService.Config) -> None:
    async with JobService(config) as jobs:

        @jobs.handler("flaky", retry=JobService.Retry(initial=60, max_backoff=60))
        async def fail(payload: Any) -> None:
            raise ValueError("not now")

        job_id = await jobs.submit("flaky", 1, priority="low", entity="e")
        async with jobs.worker():

            async def waits() -> bool:
                return (await jobs.status(job_id)).next_attempt_at is not None

            await eventually(waits)
            low = of(json.loads((await cli.run("queues", "--json")).out), "low")
            assert [(each["running"], each["retrying"]) for each in (low, *low["shards"])] == [(0, 1), (0, 1)]
            look = json.loads((await cli.run("top", "--count", "1", "--json")).out)
            low = of(look["priorities"], "low")
            assert [(each["running"], each["retrying"]) for each in (low, *low["shards"])] == [(0, 1), (0, 1)]
            for command in (["queues"], ["top", "--count", "1"]):
                row = next(row for row in (await cli.run(*command)).out.splitlines() if row.startswith("low "))
                assert row.split()[3] == "0"
                assert row.endswith("1 retrying")
            row = next(row for row in (await cli.run("queues")).out.splitlines() if "low-1x1-0" in row)
            assert f"  {job_id} flaky retry in " in row
            held_by = of(json.loads((await cli.run("queues", "--json")).out), "low")["shards"][0]["held_by"]
            assert (held_by["job_id"], held_by["type"], held_by["status"], held_by["attempt"]) == (
                job_id,
                "flaky",
                "queued",
                1,
            )
            due = (await jobs.status(job_id)).next_attempt_at
            assert datetime.fromisoformat(held_by["next_attempt_at"]) == due


async def test_parallel_jobs_that_run_and_wait_for_their_retry(cli: Cli, config: JobService.Config) -> None:
    async with JobService(config) as jobs:

        @jobs.handler("flaky", retry=JobService.Retry(initial=60, max_backoff=60))
        async def fail(payload: Any) -> None:
            raise ValueError("not now")

        @jobs.handler("held")
        async def hold(payload: Any) -> None:
            await asyncio.sleep(600)

        with jobs.request_context(tenant_id="acme"):
            await jobs.submit("flaky", [1, 2], priority="low")
        with jobs.request_context(tenant_id="globex"):
            held = await jobs.submit("held", 1, priority="low", duration="long")
        async with jobs.worker():

            async def are_shown() -> bool:
                low = of(json.loads((await cli.run("queues", "--json")).out), "low")
                return (low["waiting"], low["running"], low["retrying"]) == (0, 1, 2)

            await eventually(are_shown)
            low = of(json.loads((await cli.run("queues", "--json")).out), "low")
            found = {(each["running"], each["retrying"], each["has_worker"]) for each in low["partitions"]}
            assert found == {(0, 0, True), (1, 0, True), (0, 2, True)}
            rows = (await cli.run("queues")).out.splitlines()
            assert [row.endswith("2 retrying") for row in rows if "low" in row].count(True) == 2
            text = (await cli.run("top", "--count", "1")).out
            listed = [row.split() for row in text.splitlines() if row.startswith("low-parallel-")]
            assert listed[0][0] == held
            assert [row[1] for row in listed[1:]] == ["retry", "retry"]
            assert listed[0][-3:-1] == ["globex", next(each["name"] for each in low["partitions"] if each["running"])]


async def test_pausing_and_resuming(cli: Cli, config: JobService.Config) -> None:
    paused = await cli.run("pause", "low", "normal", "low", "--json")
    assert (paused.code, json.loads(paused.out)) == (
        0,
        [{"priority": name, "paused_until": None, "running": []} for name in ("low", "normal")],
    )
    timed = await cli.run("pause", "high", "--for", "1h30m", "--json")
    (high,) = json.loads(timed.out)
    until = datetime.fromisoformat(high["paused_until"])
    assert timedelta(minutes=80) < until - datetime.now(UTC) < timedelta(minutes=100)
    shown = await cli.run("queues")
    assert "parallel" in shown.out
    for line in shown.out.splitlines():
        if line.startswith(("low", "normal")):
            assert "paused until resumed" in line
        if line.startswith("high"):
            assert f"paused until {until.astimezone():%Y-%m-%d %H:%M:%S}" in line
        if line.startswith("critical"):
            assert "paused" not in line
    queues = json.loads((await cli.run("queues", "--json")).out)
    assert [(queue["paused"], queue["paused_until"]) for queue in queues] == [
        (False, None),
        (True, high["paused_until"]),
        (True, None),
        (True, None),
    ]
    said = await cli.run("pause", "low")
    assert (said.code, said.out, said.err) == (0, "", "low: paused until resumed\n")
    resumed = await cli.run("resume", "low", "high", "critical")
    assert (resumed.code, resumed.err) == (0, "low: resumed\nhigh: resumed\ncritical: was not paused\n")
    again = await cli.run("resume", "normal", "high", "--json")
    assert json.loads(again.out) == [
        {"priority": "normal", "was_paused": True},
        {"priority": "high", "was_paused": False},
    ]
    async with JobService(config) as jobs:
        assert not await jobs.resume("normal")


async def test_what_runs_is_named(cli: Cli, config: JobService.Config) -> None:
    async with JobService(config) as jobs:
        begun = asyncio.Event()

        @jobs.handler("held")
        async def hold(payload: Any) -> None:
            begun.set()
            await asyncio.sleep(60)

        job_id = await jobs.submit("held", 1, priority="low", entity="e", duration="long")
        async with jobs.worker():
            await begun.wait()
            assert (await cli.run("pause", "low")).err == f"low: paused until resumed; 1 running: {job_id}\n"


async def test_of_many_that_run_some_are_named(cli: Cli, config: JobService.Config) -> None:
    async with JobService(config) as jobs:

        @jobs.handler("held")
        async def hold(payload: Any) -> None:
            await asyncio.sleep(60)

        ids = await jobs.submit("held", list(range(12)), priority="low", duration="long")
        async with jobs.worker():

            async def all_run() -> bool:
                return (await jobs.queues.show("low")).running == len(ids)

            await eventually(all_run)
            paused = await cli.run("pause", "low")
            said, _, names = paused.err.partition(" running: ")
            assert said == "low: paused until resumed; 12"
            assert names.endswith(" and 2 more\n")
            named = names.removesuffix(" and 2 more\n").split(", ")
            assert len(named) == 10
            assert set(named) < set(ids)
            (found,) = json.loads((await cli.run("pause", "low", "--json")).out)
            assert set(found["running"]) == set(ids)


async def test_a_delivery_that_is_not_known_to_run_is_waited_for_aloud(
    cli: Cli, config: JobService.Config, connection: Connection
) -> None:
    names = Names(config.namespace)
    (shard,) = [shard for shard in await live_shards(connection, names) if shard.priority == "low"]
    taken: list[bytes] = []
    await connection.receive(names.deliver(shard).encode(), lambda *said: taken.append(said[1]), queue="workers")
    async with JobService(config) as jobs:
        await jobs.submit("t", 1, priority="low", entity="e")
    await eventually(lambda: taken)
    pausing = await cli.start("pause", "low")
    await pausing.says("waiting to learn whether the last delivered jobs have started")
    ended = await pausing.ends()
    assert (ended.code, ended.err.splitlines()[-1]) == (0, "low: paused until resumed")


async def test_on_a_narrow_terminal_the_numbers_stay(cli: Cli) -> None:
    await cli.run("pause", "low")
    async with at_terminal(cli, "queues", columns=60) as terminal:
        assert await terminal.ends() == 0
        await terminal.shows("low-1x1-0")
        assert "redelivered" in terminal.said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pause"], 2, "Missing argument 'PRIORITY'"),
        (["pause", "urgent"], 2, "'urgent' is not one of"),
        (["pause", "low", "--for", "soon"], 2, "invalid duration 'soon'"),
        (["pause", "low", "--for", "9999999d"], 2, "at most ten years"),
        (["resume", "jobs.low"], 2, "'jobs.low' is not one of"),
        (["pause", "low", "--nats-url", "nats://127.0.0.1:9"], 1, "cannot reach NATS"),
        (["queues", "--nats-url", "nats://127.0.0.1:9"], 1, "cannot reach NATS"),
    ],
)
async def test_wrong_use_is_one_clear_message(cli: Cli, arguments: list[str], code: int, says: str) -> None:
    ended = await cli.run(*arguments, JSJOBS_TIMEOUT="0.5")
    assert ended.code == code
    assert says in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [["queues"], ["pause", "low"], ["resume", "low", "--json"]])
async def test_without_streams_it_says_what_to_do(new_cli: Cli, arguments: list[str]) -> None:
    ended = await new_cli.run(*arguments)
    assert (ended.code, ended.out) == (1, "")
    assert "run `jsjobs streams apply`" in ended.err
