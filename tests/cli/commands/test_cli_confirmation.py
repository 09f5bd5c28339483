"""Commands that change more than one thing ask first, and say how many."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from cli_process import Cli
from terminal import at_terminal

from jsjobs import JobService
from jsjobs.postgres.dead_letters import NewDeadLetter


@pytest.fixture
async def jobs(cli: Cli, config: JobService.Config) -> AsyncIterator[JobService]:
    async with JobService(config) as service:
        yield service


async def dead_letter(jobs: JobService, count: int) -> list[str]:
    """Dead letters; the jobs' ids."""
    ids = [f"low-{number}" for number in range(1, count + 1)]
    for job_id in ids:
        facts = {"type": "echo", "priority": "low", "payload": b"1", "error_reason": "MaxRetries", "attempts": 3}
        await jobs.dlq.store(NewDeadLetter(original_job_id=job_id, dead_at=datetime.now(UTC), **facts))
    return ids


async def undecided(jobs: JobService) -> int:
    return await jobs.dlq.count()


@pytest.mark.parametrize("command", ["replay", "discard"])
async def test_letters_are_decided_in_bulk_only_after_a_yes(cli: Cli, jobs: JobService, command: str) -> None:
    ids = await dead_letter(jobs, 3)
    for filters in (["--all"], ["--type", "echo"], ["--limit", "2"], ids):
        count = 2 if "--limit" in filters else 3
        for answer in ("n\n", "\n", "\x04", "yess\n"):
            async with at_terminal(cli, "dlq", command, *filters) as terminal:
                await terminal.shows(f"{command} {count} letters? [y/N]")
                terminal.press(answer)
                assert await terminal.ends() == 1
                await terminal.shows("nothing was changed")
            if filters != ["--all"]:
                break
    async with at_terminal(cli, "dlq", command, "--all") as terminal:
        await terminal.shows("[y/N]")
        terminal.press("\x03")
        assert await terminal.ends() == 130
    assert await undecided(jobs) == 3
    async with at_terminal(cli, "dlq", command, "--all") as terminal:
        await terminal.shows("[y/N]")
        terminal.press("y\n")
        assert await terminal.ends() == 0
    assert await undecided(jobs) == 0


@pytest.mark.parametrize("command", ["replay", "discard"])
async def test_without_a_terminal_bulk_needs_yes(cli: Cli, jobs: JobService, command: str) -> None:
    ids = await dead_letter(jobs, 4)
    for more in ([], ["--json"]):
        refused = await cli.run("dlq", command, "--all", *more)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            f"error: this would {command} 4 letters: give --yes, since there is no terminal to ask on; nothing was changed\n"
        )
    assert await undecided(jobs) == 4
    assert (await cli.run("dlq", command, *ids[:2])).code == 0, "what is named needs no yes in a script"
    assert (await cli.run("dlq", command, "--limit", "1")).code == 0, "nor does a single one"
    assert (await cli.run("dlq", command, "--all", "--yes")).code == 0
    assert await undecided(jobs) == 0


async def test_several_jobs_are_cancelled_only_after_a_yes(cli: Cli, jobs: JobService) -> None:
    ids = [await jobs.submit("echo", number) for number in range(2)]
    async with at_terminal(cli, "cancel", *ids) as terminal:
        await terminal.shows("cancel 2 jobs? [y/N]")
        terminal.press("n\n")
        assert await terminal.ends() == 1
    assert {(await jobs.status(job_id)).status for job_id in ids} == {"queued"}
    async with at_terminal(cli, "cancel", ids[0]) as terminal:
        assert await terminal.ends() == 0
        assert "[y/N]" not in terminal.said
    async with at_terminal(cli, "cancel", *ids, "--yes") as terminal:
        assert await terminal.ends() == 1, "one is already cancelled"
    assert {(await jobs.status(job_id)).status for job_id in ids} == {"cancelled"}


async def test_streams_lose_shards_and_room_only_after_a_yes(cli: Cli, config: JobService.Config) -> None:
    more = await cli.run("streams", "apply", "--shards", "critical=6")
    assert (more.code, "applied 1 change" in more.err) == (0, True)

    async def count() -> int:
        shown = json.loads((await cli.run("streams", "show", "--json")).out)
        return sum(shard["name"].startswith("critical-") for shard in shown["shards"])

    fewer = ("streams", "apply", "--shards", "critical=4")
    refused = await cli.run(*fewer)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: this would remove what the server has (critical: shards 6 → 4): ")
    smaller = str(config.queue_bytes // 2)
    refused = await cli.run("streams", "apply", "--shards", "critical=6", JSJOBS_QUEUE_BYTES=smaller)
    assert f"max_bytes {config.queue_bytes} → {smaller}" in refused.err
    assert await count() == 6
    async with at_terminal(cli, *fewer) as terminal:
        await terminal.shows("critical: shards 6 → 4)? [y/N]")
        terminal.press("n\n")
        assert await terminal.ends() == 1
    assert await count() == 6
    assert (await cli.run(*fewer, "--yes")).code == 0
    assert await count() == 4
