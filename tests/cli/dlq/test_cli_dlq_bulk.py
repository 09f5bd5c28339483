"""Many dead letters at once: `jsjobs dlq replay`, `discard` and `export` with filters."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from cli_process import Cli
from terminal import at_terminal

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.postgres.dead_letters import NewDeadLetter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def jobs(cli: Cli, config: JobService.Config) -> AsyncIterator[JobService]:
    async with JobService(config) as service:
        yield service


async def store(jobs: JobService, count: int, first: int = 1, **values: object) -> list[str]:
    """Dead letters, the first of which died first; the jobs' ids."""
    ids = [f"low-{number}" for number in range(first, first + count)]
    for number, job_id in enumerate(ids, first):
        usual = {"type": "echo", "priority": "low", "payload": b"%d" % number, "error_reason": "MaxRetries"}
        times = {"attempts": 3, "dead_at": NOON + timedelta(seconds=number)}
        await jobs.dlq.store(NewDeadLetter(original_job_id=job_id, **(usual | times | values)))
    return ids


async def waiting(jobs: JobService) -> int:
    """Jobs in the queue that the letters go to."""
    async with connected(jobs.config, name="test") as connection:
        overview = await Observer(connection, Names(jobs.config.namespace)).look(0)
    return next(look.waiting for look in overview.priorities if look.priority == "low")


async def run_once(jobs: JobService, count: int) -> None:
    """Run what was replayed; every job runs, and none twice, however many messages there are of it."""
    ran: list[int] = []
    jobs.register_handler("echo", ran.append)
    async with jobs.worker():

        async def is_over() -> bool:
            return await waiting(jobs) == 0 and len(ran) >= count

        await eventually(is_over)
    assert sorted(ran) == list(range(1, count + 1))


async def test_filters_choose_what_is_replayed(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 5, app_id="acme")
    await store(jobs, 5, first=6, app_id="other", error_reason="Validation")
    await store(jobs, 5, first=11, type="sleep")
    replayed = await cli.run("dlq", "replay", "--yes", "--tenant", "acme", "--json")
    assert replayed.code == 0
    done = json.loads(replayed.out)
    assert len(done) == 5
    assert {one["id"] for one in done} == {
        str(letter.id) for letter in await jobs.dlq.list(tenant="acme", include_replayed=True)
    }
    assert {(await jobs.status(one["replayed_job_id"])).tenant for one in done} == {"acme"}
    await eventually(lambda: holds(jobs, 5))
    some = await cli.run("dlq", "replay", "--yes", "--reason", "Validation", "--limit", "2")
    assert (some.code, some.out, some.err) == (0, "", "replayed 2 letters\n")
    assert [letter.original_job_id for letter in await jobs.dlq.list(tenant="other")] == [
        "low-8",
        "low-7",
        "low-6",
    ]
    since = (NOON + timedelta(seconds=14)).isoformat()
    assert (await cli.run("dlq", "replay", "--yes", "--since", since, "--type", "sleep")).err == "replayed 2 letters\n"
    assert (await cli.run("dlq", "replay", "--yes", "--all")).err == "replayed 6 letters\n"
    assert await jobs.dlq.count() == 0
    await eventually(lambda: holds(jobs, 15))
    none = await cli.run("dlq", "replay", "--yes", "--all")
    assert (none.code, none.err) == (0, "no open letters match\n")
    assert (await cli.run("dlq", "replay", "--yes", "--all", "--json")).out == "[]\n"
    assert await waiting(jobs) == 15


async def test_the_dead_jobs_of_a_batch_are_found_by_its_id(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 2, batch_id="b1")
    await store(jobs, 3, first=3)
    listed = json.loads((await cli.run("dlq", "list", "--batch", "b1", "--json")).out)
    assert [letter["original_job_id"] for letter in listed] == ["low-2", "low-1"]
    assert len((await cli.run("dlq", "export", "--batch", "b1")).out.splitlines()) == 2
    assert (await cli.run("dlq", "replay", "--yes", "--batch", "b1", "--limit", "1")).err == "replayed 1 letter\n"
    assert (await cli.run("dlq", "discard", "--yes", "--batch", "b1")).err == "discarded 1 letter\n"
    assert await jobs.dlq.count() == 3
    await jobs.dlq.discard((await jobs.dlq.find("low-2")).id)
    shown = await cli.run("dlq", "show", "low-2")
    assert ", then discarded at" in shown.out
    assert "replayed at" in shown.out


async def test_jobs_of_one_entity_are_replayed_in_their_order(cli: Cli, jobs: JobService) -> None:
    for number in range(60):
        await store(jobs, 1, first=number + 1, entity=f"e{number % 3}")
    ran: list[tuple[str | None, int]] = []

    @jobs.handler("echo")
    async def echo(payload: int, ctx: JobService.Context) -> None:
        ran.append((ctx.entity, payload))

    assert (await cli.run("dlq", "replay", "--yes", "--all")).code == 0
    async with jobs.worker():
        await eventually(lambda: len(ran) == 60)
    for entity in ("e0", "e1", "e2"):
        numbers = [number for name, number in ran if name == entity]
        assert numbers == sorted(numbers)


async def test_one_that_cannot_be_replayed_keeps_no_other_back(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 4)
    await store(jobs, 1, first=5, type="not a type")
    await store(jobs, 4, first=6)
    bad = (await jobs.dlq.find("low-5")).id
    ended = await cli.run("dlq", "replay", "--yes", "--all")
    assert ended.code == 1
    assert f"error: {bad}: a job of type 'not a type' cannot be published again" in ended.err
    assert "replayed 8 of 9 letters; 1 failed\n" in ended.err
    again = await cli.run("dlq", "replay", "--yes", "--all", "--json")
    assert again.code == 1
    assert json.loads(again.out) == [{"id": str(bad), "error": "a job of type 'not a type' cannot be published again"}]


async def test_an_interrupted_replay_is_finished_by_the_next(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 400)
    process = await cli.start("dlq", "replay", "--yes", "--all")

    async def some_are_done() -> bool:
        return await jobs.dlq.count() < 390

    await eventually(some_are_done)
    process.interrupt()
    stopped = await process.ends()
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "stopped: run the same command again to continue with the rest" in stopped.err
    left = await jobs.dlq.count()
    assert 0 < left < 400
    again = await cli.run("dlq", "replay", "--yes", "--all")
    assert (again.code, again.err) == (0, f"replayed {left} letters\n")
    await run_once(jobs, 400)


async def test_two_at_once_replay_each_letter_once(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 100)
    both = await asyncio.gather(*(cli.run("dlq", "replay", "--yes", "--all", "--json") for _ in range(2)))
    done = [one for ended in both for one in json.loads(ended.out)]
    assert len({one["replayed_job_id"] for one in done if "replayed_job_id" in one}) == 100
    assert all("already replayed" in one["error"] for one in done if "error" in one)
    assert await jobs.dlq.count() == 0
    await run_once(jobs, 100)


async def test_replays_wait_before_a_full_queue(
    cli: Cli,
    jobs: JobService,
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
) -> None:
    await deploy(settings_of(capacity=5))
    await store(jobs, 50)
    assert (await cli.run("dlq", "replay", "--yes", "--all")).err == "replayed 50 letters\n"
    await eventually(lambda: holds(jobs, 5))
    await deploy(settings_of())
    await eventually(lambda: holds(jobs, 50))
    await run_once(jobs, 50)


async def holds(jobs: JobService, count: int) -> bool:
    return await waiting(jobs) == count


async def test_a_stream_that_is_not_there_is_not_tried_with_every_letter(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 200)
    await call(jobs.connection, f"STREAM.DELETE.{Names(jobs.config.namespace).schedule_stream}")
    ended = await cli.run("dlq", "replay", "--yes", "--all")
    assert ended.code == 1
    assert "replayed 0 of 200 letters" in ended.err
    assert "stopped: run the same command again to continue with the rest" in ended.err
    assert 16 <= len([line for line in ended.err.splitlines() if "jsjobs streams apply" in line]) < 100
    assert await jobs.dlq.count() == 200  # none is marked that was not published


async def test_without_a_database_it_says_so_once(cli: Cli) -> None:
    for command in ("replay", "discard"):
        ended = await cli.run("dlq", command, "--all", JSJOBS_DATABASE_URL="postgresql://u@127.0.0.1:9/d")
        assert ended.code == 1
        assert ended.err.count("is not available") == 1


async def test_letters_are_discarded_by_filter(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 3, app_id="acme")
    await store(jobs, 3, first=4)
    ended = await cli.run("dlq", "discard", "--yes", "--tenant", "acme", "--json")
    assert ended.code == 0
    assert [one["discarded"] for one in json.loads(ended.out)] == [True] * 3
    assert {letter.app_id for letter in await jobs.dlq.list()} == {"default"}
    assert (await cli.run("dlq", "discard", "--yes", "--all")).err == "discarded 3 letters\n"
    assert await jobs.dlq.list() == []


async def test_an_export_has_all_pages_as_the_list_has_them(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 130, app_id="acme")
    await store(jobs, 20, first=131)
    await cli.run("dlq", "discard", "--yes", "--tenant", "default")
    exported = await cli.run("dlq", "export")
    assert (exported.code, exported.err) == (0, "")
    lines = [json.loads(line) for line in exported.out.splitlines()]
    assert lines == json.loads((await cli.run("dlq", "list", "--limit", "1000", "--json")).out)
    assert [line["original_job_id"] for line in lines] == [f"low-{number}" for number in range(130, 0, -1)]
    assert len((await cli.run("dlq", "export", "--all")).out.splitlines()) == 150
    some = await cli.run("dlq", "export", "--tenant", "default", "--all", "--limit", "7")
    assert [json.loads(line)["original_job_id"] for line in some.out.splitlines()] == [
        f"low-{number}" for number in range(150, 143, -1)
    ]
    assert (await cli.run("dlq", "export", "--type", "none")).out == ""


async def test_a_reader_that_goes_ends_an_export_quietly(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 300, payload=b'"' + b"x" * 20_000 + b'"')
    ours, theirs = os.pipe()
    process = await cli.start("dlq", "export", stdout=theirs)
    os.close(theirs)
    await asyncio.to_thread(os.read, ours, 1000)
    os.close(ours)
    assert process.child.stderr is not None
    assert "Traceback" not in (await process.child.stderr.read()).decode()


async def test_at_a_terminal_a_bar_shows_how_far_it_is(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 150)
    async with at_terminal(cli, "dlq", "replay", "--all") as terminal:
        await terminal.shows("replay 150 letters? [y/N]")
        terminal.press("y\n")
        assert await terminal.ends() == 0
        await terminal.shows("150/150")
        await terminal.shows("replayed 150 letters")


async def test_an_export_into_a_file_shows_a_bar_and_the_file_holds_every_letter(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 150)
    command = f"{cli.executable} dlq export --limit 120 > letters.jsonl"
    async with at_terminal(cli, "-c", command, executable="sh") as terminal:
        assert await terminal.ends() == 0
        await terminal.shows("120/120")
    lines = (cli.folder / "letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["original_job_id"] for line in lines] == [f"low-{number}" for number in range(150, 30, -1)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay"], "give the ids of letters, filters such as --type email.send, or --all"),
        (["discard"], "give the ids of letters, filters such as"),
        (["replay", "3f2a9c", "--all"], "give the ids of letters, or filters, not both"),
        (["replay", "3f2a9c", "--type", "t"], "give the ids of letters, or filters, not both"),
        (["discard", "3f2a9c", "--limit", "1"], "give the ids of letters, or filters, not both"),
        (["replay", "--all", "--tenant", "acme"], "--all means every open letter"),
        (["replay", "--all", "--force"], "--force goes with ids of letters"),
        (["replay", "--all", "--limit", "0"], "greater than or equal to 1"),
        (["replay", "--since", "yesterday"], "neither a duration such as 2h nor a time"),
        (["export", "--since", "99999999d"], "neither a duration such as 2h nor a time"),
        (["replay", "--all", "--priority", "urgent"], "'urgent' is not one of"),
    ],
)
async def test_wrong_use(cli: Cli, jobs: JobService, arguments: list[str], says: str) -> None:
    await store(jobs, 1)
    ended = await cli.run("dlq", *arguments)
    assert ended.code == 2
    assert says in " ".join(ended.err.replace("│", " ").split())
    assert await jobs.dlq.count() == 1


async def test_a_killed_replay_is_finished_by_the_next(cli: Cli, jobs: JobService) -> None:
    await store(jobs, 300)
    process = await cli.start("dlq", "replay", "--yes", "--all")

    async def some_are_done() -> bool:
        return await jobs.dlq.count() < 295

    await eventually(some_are_done)
    process.signal(signal.SIGKILL)
    await process.child.wait()
    assert (await cli.run("dlq", "replay", "--yes", "--all")).code == 0
    assert await jobs.dlq.count() == 0
    await run_once(jobs, 300)
