"""`jsjobs top`: the real command, in a pipe and at a terminal."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli, Process
from terminal import at_terminal

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer

ALTERNATE, NORMAL = "\x1b[?1049h", "\x1b[?1049l"


async def test_each_look_is_one_object_and_the_second_has_rates(cli: Cli) -> None:
    await cli.run("submit", "echo", "1", "--priority", "high", "--entity", "e")
    process = await cli.start("top", "--json", "--count", "2", "--interval", "200ms")
    looks = [json.loads(line) for line in (await process.ends()).out.splitlines()]
    assert [look["priorities"][1]["submitted_per_second"] for look in looks] == [None, 0]
    high = looks[1]["priorities"][1]
    assert (high["priority"], high["waiting"], high["running"], high["finished_per_second"]) == ("high", 1, 0, 0)
    assert high["oldest_waiting_seconds"] > 0
    assert [shard["name"] for shard in high["shards"]] == ["high-1x3-0", "high-1x3-1", "high-1x3-2"]
    assert {shard["generation"] for shard in high["shards"]} == {"1x3"}
    common = [
        *("waiting", "running", "retrying", "redelivered", "paused", "paused_until", "has_worker"),
        *("deliveries", "last_delivered", "active_at", "created_at", "seen_at", "deliveries_per_second"),
    ]
    assert list(high["shards"][0]) == ["name", "generation", *common, "is_next", "held_by"]
    assert [each["name"] for each in high["partitions"]] == [f"high-parallel-{number}" for number in range(4)]
    own = ["unread", "requests", "ended_up_to", "first_given_back"]
    assert list(high["partitions"][0]) == ["name", *common, *own]
    assert [(each["lane"], each["stored"]) for each in high["queues"]] == [("ordered", 1), ("parallel", 0)]
    assert sum(shard["waiting"] for shard in high["shards"]) == 1
    letters = {name: looks[1][name] for name in ("letters_waiting", "letters_open", "database")}
    assert letters == {"letters_waiting": 0, "letters_open": 0, "database": "reached"}
    assert process.child.returncode == 0


async def test_running_jobs_and_open_letters(cli: Cli) -> None:
    await cli.worker()
    died = await cli.run("submit", "none.such", "1", "--wait")
    assert died.code == 1
    submitted = await cli.run(
        "submit", "sleep", "30", "--duration", "long", "--entity", "customer-42", "--tenant", "acme"
    )
    running = submitted.out.strip()
    process = await cli.start("top", "--json", "--interval", "100ms")
    look = await line(process)
    while not (look["letters_open"] and look["running"] and look["running"][0]["worker"]):
        look = await line(process)
    job = look["running"][0]
    assert (job["job_id"], job["type"], job["entity"], job["tenant"]) == (running, "sleep", "customer-42", "acme")
    assert (job["status"], job["attempt"], job["next_attempt_at"]) == ("processing", 1, None)
    assert look["letters_open"] == 1
    text = (await cli.run("top", "--count", "1")).out
    assert f"{running} " in text
    assert "customer-42  acme" in text
    assert (job["lane"], job["consumer"]) == ("ordered", f"normal-1x2-{job['consumer'][-1]}")
    held = [shard["held_by"] for look in look["priorities"] for shard in look["shards"] if shard["held_by"]]
    assert held == [job]
    assert "0 pending, 1 open in Postgres" in text


async def line(process: Process) -> dict[str, Any]:
    assert process.child.stdout is not None
    async with asyncio.timeout(20):
        read = await process.child.stdout.readline()
    assert read, f"it ended: {(await process.ends()).err}"
    found: dict[str, Any] = json.loads(read)
    return found


async def test_in_a_pipe_each_look_is_a_block_of_plain_lines(cli: Cli) -> None:
    await cli.run("submit", "echo", "1", "--priority", "low")
    ended = await cli.run("top", "--count", "2", "--interval", "100ms")
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    blocks = ended.out.strip().split("\n\n")
    assert len(blocks) == 2
    words = {row.split()[0]: row.split() for row in blocks[1].splitlines()}
    assert words["priority"] == ["priority", "waiting", "oldest", "running", "redelivered", "in/s", "out/s"]
    assert words["low"].pop(2).endswith("s")
    assert words["low"] == ["low", "1", "0", "0", "0", "0", "no", "worker"]
    assert words["critical"] == ["critical", "0", "-", "0", "0", "0", "0", "no", "worker"]


async def test_a_reader_that_has_seen_enough_ends_it_quietly(cli: Cli) -> None:
    top = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"{cli.executable} top --interval 100ms | head -1",
        cwd=cli.folder,
        env=cli.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await top.communicate()
    assert out.startswith(b"jobs ") or b"priority" in out or out.count(b"\n") == 1
    assert err == b""


async def test_without_streams_it_says_so_and_ends(new_cli: Cli) -> None:
    for arguments in (["top"], ["top", "--json"]):
        ended = await new_cli.run(*arguments)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("error: no streams of namespace ")
        assert ended.err.endswith("exist: run `jsjobs streams apply`\n")
        assert ended.err.count("\n") == 1


async def test_without_a_server_it_says_so_and_ends(bare_cli: Cli) -> None:
    ended = await bare_cli.run("top", "--nats-url", "nats://127.0.0.1:9")
    assert (ended.code, ended.out) == (1, "")
    assert "cannot reach NATS at nats://127.0.0.1:9" in ended.err


@pytest.mark.parametrize("wrong", [["--interval", "1ms"], ["--interval", "soon"], ["--count", "0"]])
async def test_wrong_use(cli: Cli, wrong: list[str]) -> None:
    ended = await cli.run("top", *wrong)
    assert (ended.code, ended.out) == (2, "")
    assert wrong[0] in ended.err


@pytest.mark.parametrize(
    ("url", "word", "shown"),
    [
        ("postgresql://nobody@127.0.0.1:9/none", "unreachable", "Postgres unreachable"),
        ("", "none", "no database"),
    ],
)
async def test_postgres_is_not_needed(cli: Cli, url: str, word: str, shown: str) -> None:
    cli.env["JSJOBS_DATABASE_URL"] = url
    ended = await cli.run("top", "--json", "--count", "1")
    assert (ended.code, ended.err) == (0, "")
    look = json.loads(ended.out)
    assert (look["database"], look["letters_open"]) == (word, None)
    assert f"0 pending, {shown}" in (await cli.run("top", "--count", "1")).out


async def test_a_database_without_tables_is_told(cli: Cli, empty_url: str) -> None:
    ended = await cli.run("top", "--json", "--count", "1", JSJOBS_DATABASE_URL=empty_url)
    assert (ended.code, json.loads(ended.out)["database"]) == (0, "missing")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_it_is_told_to_end(cli: Cli, number: signal.Signals) -> None:
    process = await cli.start("top", "--json", "--interval", "100ms")
    for _ in range(3):
        await line(process)
    process.signal(number)
    ended = await process.ends()
    assert (ended.code, ended.err) == (0, "")


async def test_at_a_terminal_it_fills_the_screen_until_q(cli: Cli) -> None:
    await cli.run("submit", "echo", "1", "--priority", "low", "--entity", "e")
    # Some shells and tools tell their programs a size, which does not change with the window.
    async with at_terminal(cli, "top", "--interval", "200ms", COLUMNS="200", LINES="50") as terminal:
        await terminal.shows(ALTERNATE)
        await terminal.shows("nothing is running")
        await terminal.shows("q quit")
        assert terminal.is_raw()
        terminal.press("s")
        await terminal.shows("critical-1x4-0")
        await terminal.shows("low-1x1-0")
        terminal.resize(60, 14)
        await terminal.shows("… and 8 more shards")
        terminal.press("o")
        await terminal.shows("low-1x1-0")  # the fullest, so it is among the few now
        terminal.resize(80, 14)
        terminal.press("p")
        await terminal.shows("critical-parallel-0")
        await terminal.shows("… and 14 more partitions")
        terminal.press("p")
        await terminal.shows("nothing is running")
        terminal.press("\x1b[B\x1az?q")
        assert await terminal.ends() == 0
        await terminal.shows(NORMAL)
        assert not terminal.is_raw()


@pytest.mark.parametrize("end", ["\x03", "\x1c", "q"])
async def test_at_a_terminal_ctrl_c_is_as_good(cli: Cli, end: str) -> None:
    async with at_terminal(cli, "top", "--interval", "10m") as terminal:
        await terminal.shows("q quit")
        terminal.press(end)
        assert await terminal.ends() == 0
        await terminal.shows(NORMAL)
        assert not terminal.is_raw()


async def test_a_terminal_that_can_do_nothing_gets_lines(cli: Cli) -> None:
    async with at_terminal(cli, "top", "--count", "1", TERM="dumb") as terminal:
        await terminal.shows("critical")
        assert await terminal.ends() == 0
        assert ALTERNATE not in terminal.written


@pytest.fixture
async def own(bare_cli: Cli, tmp_path: Path, config: JobService.Config) -> AsyncIterator[tuple[Cli, NatsServer]]:
    """The command with a server that this test may stop."""
    with NatsServer(tmp_path / "nats") as server:
        bare_cli.env |= {"JSJOBS_NATS_URL": server.url, "JSJOBS_QUEUE_BYTES": str(config.queue_bytes)}
        assert (await bare_cli.run("streams", "apply")).code == 0
        yield bare_cli, server


async def test_it_goes_on_by_itself_when_a_server_is_back(own: tuple[Cli, NatsServer]) -> None:
    cli, server = own
    process = await cli.start("top", "--json", "--interval", "100ms")
    assert "priorities" in await line(process)
    server.stop()
    while "reason" not in (look := await line(process)):
        pass
    assert not (await line(process))["connected"]
    assert (await line(process))["failing_since"] == look["failing_since"]
    await asyncio.to_thread(server.start)
    while "priorities" not in await line(process):
        pass
    process.interrupt()
    ended = await process.ends()
    assert ended.code == 0
    assert "Traceback" not in ended.err


async def test_an_outage_is_shown_and_ends(own: tuple[Cli, NatsServer]) -> None:
    cli, server = own
    async with at_terminal(cli, "top", "--interval", "100ms", columns=140) as terminal:
        await terminal.shows("q quit")
        server.stop()
        await terminal.shows("disconnected since ")
        await terminal.shows("reconnecting")
        await asyncio.to_thread(server.start)
        while "disconnected" in await terminal.next_between("every 100ms", "priority"):
            pass
        terminal.press("q")
        assert await terminal.ends() == 0
        assert "WARNING" not in terminal.said
