"""Commands that stay until a signal ends them."""

import json
import signal

from cli_process import Cli

from facts import eventually, is_processing
from jsjobs import JobService


async def test_a_graceful_stop_ends_short_jobs_and_gives_long_ones_back(cli: Cli, config: JobService.Config) -> None:
    worker = await cli.worker(JSJOBS_GRACE="1.5")
    async with JobService(config) as service:
        short = await service.submit("sleep", 0.7, priority="high")
        long = await service.submit("sleep", 60, priority="low", duration="long")
        for job_id in (short, long):
            await eventually(lambda job_id=job_id: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        ended = await worker.ends()
        assert ended.code == 0, ended.err
        assert "stopping: waiting for 2 running jobs; a second signal interrupts" in ended.err
        assert await service.result(short, timeout=1) == "slept"
        released = await service.status(long)
        assert (released.status, released.attempts, released.last_error) == ("queued", 0, None)


async def test_a_second_signal_gives_everything_back_at_once(cli: Cli, config: JobService.Config) -> None:
    worker = await cli.worker(JSJOBS_GRACE="60")
    async with JobService(config) as service:
        job_id = await service.submit("sleep", 60, duration="long")
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGINT)
        await worker.says("a second signal interrupts")
        worker.signal(signal.SIGINT)
        ended = await worker.ends(within=5)
        assert ended.code == 0, ended.err
        assert (await service.status(job_id)).status == "queued"


async def test_a_handler_that_never_returns_does_not_keep_the_process(cli: Cli, config: JobService.Config) -> None:
    worker = await cli.worker(JSJOBS_GRACE="60")
    async with JobService(config) as service:
        await service.submit("leave-thread", 600, priority="high")
        job_id = await service.submit("stuck", 600, duration="long")
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        await worker.says("a second signal interrupts")
        worker.signal(signal.SIGTERM)
        ended = await worker.ends(within=10)
    assert ended.code == 0, ended.err
    assert "exiting while these threads still run" in ended.err
    assert "Traceback" not in ended.err


async def test_a_worker_waits_for_the_streams_and_needs_no_database(new_cli: Cli) -> None:
    worker = await new_cli.start("worker", "app:jobs", "--database-url", "postgresql://nobody@127.0.0.1:9/none")
    await worker.says("run `jsjobs streams apply`")
    applied = await new_cli.run("streams", "apply")
    assert applied.code == 0, applied.err
    await worker.says("worker and router ready: namespace")
    done = await new_cli.run("submit", "echo", "1", "--wait")
    assert (done.code, done.out) == (0, "1\n")
    worker.signal(signal.SIGTERM)
    assert (await worker.ends()).code == 0


async def test_a_worker_of_some_priorities_leaves_the_others(cli: Cli, config: JobService.Config) -> None:
    await cli.worker("--no-router", "--priorities", "critical, high", "--concurrency", "3")
    async with JobService(config) as service:
        low, high = await service.submit("echo", 1, priority="low"), await service.submit("echo", 2, priority="high")
        assert await service.result(high) == 2
        assert (await service.status(low)).status == "queued"
        await cli.worker("--no-router", JSJOBS_PRIORITIES="low")
        assert await service.result(low) == 1


async def test_priorities_that_are_none_are_refused(bare_cli: Cli) -> None:
    refused = await bare_cli.run("worker", "app:jobs", "--priorities", "critical,urgent")
    assert refused.code == 2
    assert "--priorities: the priority must be one of critical, high, normal, low, not 'urgent'" in refused.err
    refused = await bare_cli.run("worker", "app:jobs", JSJOBS_PRIORITIES="urgent")
    assert refused.code == 1
    assert "priorities: " in refused.err
    assert "Traceback" not in refused.err


async def test_what_an_application_sets_itself_counts_and_is_said(cli: Cli) -> None:
    own = cli.env["JSJOBS_NAMESPACE"]
    (cli.folder / "fixed.py").write_text(
        f"from jsjobs import JobService\njobs = JobService(JobService.Config(namespace={own!r}))\n"
        "jobs.register_handler('t', lambda payload: payload)\n"
    )
    worker = await cli.start("worker", "fixed.py:jobs", "--namespace", "other")
    await worker.says(f"ready: namespace {own}")
    assert "the application sets these itself, so they have no effect here: JSJOBS_NAMESPACE\n" in worker.said
    worker.interrupt()
    assert (await worker.ends()).code == 0


async def test_an_application_without_handlers_is_refused_before_it_buries_a_job(cli: Cli) -> None:
    (cli.folder / "empty.py").write_text("from jsjobs import JobService\njobs = JobService()\n")
    ended = await cli.run("worker", "empty.py:jobs")
    assert (ended.code, ended.out) == (2, "")
    assert "empty.py:jobs has no handlers" in ended.err


async def test_the_router_alone_starts_with_postgres_down(cli: Cli) -> None:
    router = await cli.start("router", JSJOBS_DATABASE_URL="postgresql://someone:secret@127.0.0.1:9/shop")
    await router.says("router ready: namespace")
    router.signal(signal.SIGTERM)
    ended = await router.ends()
    assert ended.code == 0
    assert "dead letters go to 127.0.0.1:9/shop" in ended.err
    assert "secret" not in ended.err


async def test_without_nats_workers_and_routers_say_so(bare_cli: Cli) -> None:
    for command in (["worker", "app:jobs"], ["router", "--database-url", "postgresql://nobody@127.0.0.1:9/none"]):
        ended = await bare_cli.run(*command, NATS_URL="nats://127.0.0.1:9", JSJOBS_TIMEOUT="0.3")
        assert ended.code == 1
        assert ended.err.splitlines()[-1].startswith("error: cannot reach NATS at nats://127.0.0.1:9: ")
        assert "Traceback" not in ended.err


async def test_dead_letters_are_listed_shown_replayed_and_discarded(cli: Cli) -> None:
    worker = await cli.worker()
    ids = []
    for payload in ('"a"', '{"deep": [null]}'):
        failed = await cli.run("submit", "fail", payload, "--max-attempts", "2", "--tenant", "acme", "--wait")
        ids.append(failed.err.splitlines()[0])
    await eventually(lambda: listed(cli, 2))
    letters = await listed(cli, 2, "--tenant", "acme", "--type", "fail", "--reason", "MaxRetries", "--since", "1h")
    assert letters
    assert [letter["original_job_id"] for letter in letters] == ids[::-1]
    assert letters[0]["payload_json"] == {"deep": [None]}
    assert letters[0]["payload"] == "eyJkZWVwIjpbbnVsbF19"
    assert await listed(cli, 0, "--tenant", "umbrella") == []
    assert len((await listed(cli, 1, "--limit", "1")) or []) == 1
    shown = await cli.run("dlq", "show", letters[0]["id"][:8])
    for said in (ids[1], "acme", "MaxRetries", "ValueError: no good", '"deep"'):
        assert said in shown.out
    assert ids[0] not in shown.out
    assert "fail" in (await cli.run("dlq", "list")).out
    worker.signal(signal.SIGTERM)
    await worker.ends()

    replayed = await cli.run("dlq", "replay", letters[0]["id"], "000000", "--priority", "low", "--json")
    assert replayed.code == 1, "one of the two does not exist"
    done, missing = json.loads(replayed.out)
    assert done == {"id": letters[0]["id"], "replayed_job_id": f"replay-1-{letters[0]['id']}"}
    assert missing["id"] == "000000"
    assert json.loads((await cli.run("status", done["replayed_job_id"], "--json")).out)["priority"] == "low"
    again = await cli.run("dlq", "replay", ids[1])
    assert again.code == 1
    assert "already replayed" in again.err
    forced = await cli.run("dlq", "replay", ids[1], "--force")
    assert forced.code == 0
    assert f"replayed as job replay-2-{letters[0]['id']}" in forced.err

    discarded = await cli.run("dlq", "discard", ids[0], "--json")
    assert json.loads(discarded.out) == [{"id": letters[1]["id"], "discarded": True}]
    assert await listed(cli, 0) == []
    assert len((await listed(cli, 2, "--all")) or []) == 2


async def listed(cli: Cli, count: int, *filters: str) -> list | None:
    """The letters, once there are so many."""
    ended = await cli.run("dlq", "list", "--json", *filters)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    return found if len(found) == count else None
