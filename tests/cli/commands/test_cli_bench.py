"""`jsjobs bench` measures, and leaves nothing behind."""

import json

from cli_process import Cli

from facts import eventually
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection


async def bench_streams(connection: Connection) -> list[str]:
    names = (await call(connection, "STREAM.NAMES"))["streams"] or []
    return [name for name in names if "BENCH" in name.upper()]


async def test_what_it_measured_is_told_and_its_streams_are_gone(cli: Cli, connection: Connection) -> None:
    measured = await cli.run("bench", "--jobs", "200", "--singles", "20", "--size", "50", "--json")
    assert measured.code == 0, measured.err
    rows = {row["what"]: row for row in json.loads(measured.out)}
    assert [row["jobs"] for row in rows.values()] == [20, 200, 220, 200, 20, 20]
    for what in ("queued one by one", "queued in lists of 1,000", "drained side by side", "drained in order"):
        assert rows[what]["jobs_per_second"] > 0
    start, result = rows["submit to the handler's start"], rows["submit to the result"]
    assert 0 < start["p50_ms"] < result["p50_ms"]
    assert await bench_streams(connection) == []


async def test_a_table_for_people(cli: Cli) -> None:
    shown = await cli.run("bench", "--jobs", "100", "--singles", "10")
    assert shown.code == 0
    assert "drained side by side" in shown.out
    assert "drained in order" in shown.out
    assert "100 slots, 10 shards, payloads of 100 bytes" in shown.err


async def test_interrupted_it_leaves_nothing_either(cli: Cli, connection: Connection) -> None:
    process = await cli.start("bench", "--jobs", "1000000", "--singles", "10")
    await eventually(lambda: bench_streams(connection))
    process.interrupt()
    ended = await process.ends()
    assert ended.code == 130
    assert await bench_streams(connection) == []
