import json
from collections import Counter
from datetime import UTC, datetime

import pytest
from cli_process import Cli

from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters, NewDeadLetter


async def test_plan_apply_and_show(new_cli: Cli) -> None:
    before = await new_cli.run("streams", "show")
    assert (before.code, before.out) == (1, "")
    assert "run `jsjobs streams apply`" in before.err
    planned = await new_cli.run("streams", "plan", "--json")
    steps = json.loads(planned.out)
    assert {step["action"] for step in steps} == {"create"}
    assert "create  stream" in (await new_cli.run("streams", "plan")).out
    applied = await new_cli.run("streams", "apply", "--json")
    assert json.loads(applied.out) == steps
    again = await new_cli.run("streams", "apply")
    assert (again.code, again.out) == (0, "")
    assert again.err.endswith("nothing to do\n")
    found = json.loads((await new_cli.run("streams", "show", "--json")).out)
    assert len(found["streams"]) == 12
    assert len(found["shards"]) == 10
    assert {key: found["shards"][3][key] for key in ("name", "pending")} == {"name": "critical-1x4-3", "pending": 0}
    assert len(found["partitions"]) == 16
    assert found["partitions"][0] == {
        "name": "critical-parallel-0",
        "pending": 0,
        "in_flight": 0,
        "redelivered": 0,
        "paused": False,
        "requests": 0,
        "new_jobs": True,
    }
    shown = (await new_cli.run("streams", "show")).out
    assert "critical-1x4-3" in shown
    assert "low-parallel-3" in shown


async def test_changes_are_shown_from_and_to_and_refused_ones_change_nothing(cli: Cli) -> None:
    planned = await cli.run("streams", "plan", JSJOBS_CAPACITY="500")
    assert planned.code == 0
    assert "max_msgs_per_subject: 1000000 → 500" in planned.out
    step = next(
        step
        for step in json.loads((await cli.run("streams", "plan", "--json", JSJOBS_CAPACITY="500")).out)
        if step["action"] == "update"
    )
    assert step["changes"]["max_msgs_per_subject"] == {"from": 1000000, "to": 500}
    for payload in ("1", "2"):
        assert (await cli.run("submit", "echo", payload, "--entity", "e")).code == 0
    refused = await cli.run("streams", "plan", JSJOBS_CAPACITY="1")
    assert refused.code == 0
    assert "refuse" in refused.out
    applied = await cli.run("streams", "apply", JSJOBS_CAPACITY="1")
    assert applied.code == 1
    assert "nothing was changed, because" in applied.err


async def test_apply_names_a_queue_whose_jobs_can_expire(cli: Cli, connection: Connection) -> None:
    [stream] = [
        each["name"]
        for each in json.loads((await cli.run("streams", "show", "--json")).out)["streams"]
        if each["name"].endswith("_LOW")
    ]
    info = await call(connection, f"STREAM.INFO.{stream}")
    await call(connection, f"STREAM.UPDATE.{stream}", {**info["config"], "allow_msg_ttl": True})
    applied = await cli.run("streams", "apply")
    assert applied.code == 0
    assert f"{stream}: allow_msg_ttl is true, and the server cannot turn it off" in applied.err
    assert f"nats stream rm {stream}" in applied.err


async def test_the_shard_count_is_changed_by_scale_and_by_priority(cli: Cli) -> None:
    planned = await cli.run("streams", "plan", "--scale", "2", "--shards", "low=1")
    assert "shards: 4 → 8" in planned.out
    assert "the number of shards is set by --shards, --scale\n" in planned.err
    planned = await cli.run("streams", "plan", JSJOBS_POOLS='{"low": 2}')
    assert "shards: 1 → 2" in planned.out
    assert "the number of shards is set by JSJOBS_POOLS\n" in planned.err
    assert (await cli.run("submit", "echo", "1", "--entity", "e")).code == 0  # in `normal`, which must wait for it
    other = await cli.run("streams", "apply", "--shards", "critical=5", "--shards", "low=2")
    assert other.code == 0, other.err
    assert {"critical: 5", "high: 3", "normal: 2", "low: 2"} <= await counts(cli)
    assert "nothing to do" in (await cli.run("streams", "apply", "--shards", "critical=5", "--shards", "low=2")).err
    kept = "shards critical: the server has 5, which is kept; the default would be 4 (JSJOBS_POOLS)"
    for command in (["plan"], ["apply"], ["apply", "--shards", "low=2"]):  # in a shell that knows of no 5
        unasked = await cli.run("streams", *command)
        assert (unasked.code, unasked.out) == (0, "")
        assert kept in unasked.err
    assert {"critical: 5", "low: 2"} <= await counts(cli)
    await cli.worker()
    applied = await cli.run("streams", "apply", "--scale", "2")
    assert applied.code == 0, applied.err
    assert "critical 5 → 8 shards: the old shards are drained" in applied.err
    assert {"critical: 8", "high: 6", "normal: 4", "low: 2"} == await counts(cli)


async def test_the_number_of_partitions_is_changed_and_what_holds_jobs_stays(cli: Cli) -> None:
    async def partitions() -> list[str]:
        shown = json.loads((await cli.run("streams", "show", "--json")).out)["partitions"]
        return [one["name"] for one in shown if one["name"].startswith("low") and one["new_jobs"]]

    planned = await cli.run("streams", "plan", JSJOBS_PARTITIONS="6")
    assert planned.out.count("partitions: 4 → 6") == 4
    assert "create  consumer  low-parallel-5" in planned.out
    assert (await cli.run("streams", "apply", JSJOBS_PARTITIONS="6")).code == 0
    assert len(await partitions()) == 6
    unasked = await cli.run("streams", "apply")
    assert "partitions: the server has 6, which is kept; the default would be 4 (JSJOBS_PARTITIONS)" in unasked.err
    for tenant in range(12):
        submitted = await cli.run("submit", "echo", "1", "--tenant", f"tenant-{tenant}", "--priority", "low")
        assert submitted.code == 0
    asked = await cli.run("streams", "apply", JSJOBS_PARTITIONS="1")
    assert (asked.code, await partitions()) == (2, [f"low-parallel-{number}" for number in range(6)])
    assert "partitions 6 → 1" in asked.err
    assert (await cli.run("streams", "apply", "--yes", JSJOBS_PARTITIONS="1")).code == 0
    assert await partitions() == ["low-parallel-0"]
    again = await cli.run("streams", "apply", JSJOBS_PARTITIONS="1")
    assert "must end first" in again.err
    assert "partitions that new jobs do not go to, and that hold none: high-parallel-1" in again.out


async def test_a_stopped_change_says_what_that_means(cli: Cli) -> None:
    assert (await cli.run("submit", "echo", "1", "--entity", "e")).code == 0  # nobody works it
    applying = await cli.start("streams", "apply", "--shards", "normal=3")
    await applying.says("normal 2 → 3 shards: 1 job left in the old (no worker listens)")
    applying.interrupt()
    ended = await applying.ends()
    assert ended.code == 130
    assert "until you run the same command again or a router finishes the change" in ended.err
    assert "Traceback" not in ended.err


async def counts(cli: Cli) -> set[str]:
    shown = json.loads((await cli.run("streams", "show", "--json")).out)
    found = Counter(shard["name"].partition("-")[0] for shard in shown["shards"])
    return {f"{priority}: {count}" for priority, count in found.items()}


@pytest.mark.parametrize("given", ["critical", "critical=0", "critical=65", "huge=4", "=", "critical=²", "low=-1"])
async def test_a_shard_count_that_cannot_be_is_wrong_use(cli: Cli, given: str) -> None:
    ended = await cli.run("streams", "apply", f"--shards={given}")
    assert ended.code == 2
    assert "--shards takes a priority" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(("lane", "options"), [("", ("--entity", "e")), ("-parallel", ())])
async def test_new_streams_give_no_id_that_a_dead_letter_bears(
    new_cli: Cli, config: JobService.Config, lane: str, options: tuple[str, ...]
) -> None:
    ahead = 1 << 52  # a clock that was far ahead gave this id
    letters = f"high{lane}-{ahead}", f"normal{lane}-9999999999999999", "replay-1-x", f"high{lane}-7", f"higher{lane}-8"
    await store(config, *letters)
    assert (await new_cli.run("streams", "apply")).code == 0
    submitted = [await new_cli.run("submit", "echo", "1", "--priority", name, *options) for name in ("high", "normal")]
    assert submitted[0].out.startswith(f"high{lane}-")
    high, normal = (int(ended.out.strip().rpartition("-")[2]) for ended in submitted)
    assert high == ahead + 1
    assert normal < ahead, "an id that no stream could give is not believed"


async def store(config: JobService.Config, *job_ids: str) -> None:
    assert config.database_url is not None
    async with Database(config.database_url.get_secret_value()) as database:
        letters = DeadLetters(database, config.namespace)
        for job_id in job_ids:
            letter = NewDeadLetter(
                original_job_id=job_id,
                type="echo",
                priority="low",
                payload=b"1",
                error_reason="MaxRetries",
                attempts=1,
                dead_at=datetime.now(UTC),
            )
            await letters.store(letter)


async def test_streams_need_no_database_but_say_that_it_is_away(new_cli: Cli) -> None:
    new_cli.env["JSJOBS_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    applied = await new_cli.run("streams", "apply")
    assert applied.code == 0
    assert "the ids in the dead-letter table could not be read: Postgres at 127.0.0.1:9/none" in applied.err


async def test_migrations_are_applied_once(bare_cli: Cli, empty_url: str) -> None:
    bare_cli.env["DATABASE_URL"] = empty_url
    before = await bare_cli.run("dlq", "list")
    assert before.code == 1
    assert "run `jsjobs db migrate`" in before.err
    first = await bare_cli.run("db", "migrate", "--json")
    assert json.loads(first.out)[0] == "0001_job_dlq"
    again = await bare_cli.run("db", "migrate")
    assert (again.code, again.out, again.err) == (0, "", "nothing to do: the tables are up to date\n")
    assert (await bare_cli.run("dlq", "list", "--json")).out == "[]\n"
