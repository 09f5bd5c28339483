"""A crash at every point between two writes of a settlement: nothing lost, nothing ended twice. See docs/settlement.md."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from crashing import Crasher

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.server_clock import ServerClock
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import JobStatusResponse, Priority
from jsjobs.model.lanes import Lane, Queue


class Handler:
    """Counts its runs; fails the first `failures` of them, or all."""

    def __init__(self, failures: int = 0, error: BaseException | None = None) -> None:
        self.failures = failures
        self.error = error or ValueError("bad")
        self.runs = 0

    async def __call__(self, payload: object) -> str:
        self.runs += 1
        if self.runs <= self.failures:
            raise self.error
        return "done"


async def crash_then_recover(
    point: str,
    handler: Handler,
    config: JobService.Config,
    monkeypatch: pytest.MonkeyPatch,
    jobs: JobService,
    entity: str | None,
) -> JobStatusResponse:
    """One job whose first worker dies at `point`, finished by a second one."""
    dying = JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", handler)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity)
    async with dying:
        await Crasher(dying, point, monkeypatch).run_until_crash()
    async with jobs.worker(), asyncio.timeout(20):  # a job that was lost never ends
        async for status in jobs.watch(job_id):
            ended = status
        await eventually(lambda: queue_is_empty(jobs))
    return ended


async def queue_is_empty(jobs: JobService) -> bool:
    names = Names(jobs.config.namespace)
    infos = [await call(jobs.connection, f"STREAM.INFO.{names.queue(Queue(Priority.LOW, lane))}") for lane in Lane]
    return not any(info["state"]["messages"] for info in infos)


async def letters(jobs: JobService) -> int:
    """Jobs of which there are letters: one that is sent again is one row of the table."""
    info = await call(jobs.connection, f"STREAM.INFO.{Names(jobs.config.namespace).dead_stream}")
    return info["state"].get("num_subjects", 0)


@pytest.fixture(params=["e", None], ids=["ordered", "parallel"])
def entity(request: pytest.FixtureRequest) -> str | None:
    """Nothing but the wait differs between the lanes."""
    return request.param


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


@pytest.mark.parametrize(
    ("point", "runs", "attempts"),
    [
        ("before write 1", 1, 1),  # nobody began it
        ("after write 1", 1, 2),  # begun on paper: the attempt counts, its handler never ran
        ("before write 2", 2, 2),  # run, and not ended: at least once means again
        ("after write 2", 1, 1),  # ended: the redelivery is acknowledged and not run
        ("before ack", 1, 1),
    ],
)
async def test_a_completion_that_crashes(point, runs, attempts, config, monkeypatch, jobs, entity) -> None:
    handler = Handler()
    status = await crash_then_recover(point, handler, config, monkeypatch, jobs, entity)
    assert (status.status, status.result, handler.runs, status.attempts) == ("complete", "done", runs, attempts)
    assert [item.status for item in status.history].count("complete") == 1
    assert await letters(jobs) == 0


@pytest.mark.parametrize(
    ("point", "errors"),
    [
        ("before write 2", "worker was lost"),  # the failure itself was never written
        ("after write 2", "ValueError: bad"),  # written: the delay is `ack_wait` instead of the backoff
        ("before nak", "ValueError: bad"),
    ],
)
async def test_a_retry_that_crashes(point, errors, config, monkeypatch, jobs, entity) -> None:
    handler = Handler(failures=1)
    status = await crash_then_recover(point, handler, config, monkeypatch, jobs, entity)
    assert (status.status, handler.runs, status.attempts) == ("complete", 2, 2)
    found = [item.error for item in status.history if item.error]
    assert len(found) == 1
    assert errors in found[0]


@pytest.mark.parametrize(
    ("point", "runs"),
    [
        ("before write 2", 2),  # not dead yet on paper: run again, dead again
        ("after write 2", 1),  # dead, without a letter: the redelivery sends it
        ("before letter", 1),
        ("after letter", 1),  # the letter is sent again
        ("before term", 1),
    ],
)
async def test_a_death_that_crashes(point, runs, config, monkeypatch, jobs, entity) -> None:
    handler = Handler(failures=9, error=JobService.Error.from_validation("never"))
    status = await crash_then_recover(point, handler, config, monkeypatch, jobs, entity)
    assert (status.status, status.error_reason, handler.runs) == ("failed", "Validation", runs)
    assert [item.status for item in status.history].count("failed") == 1
    assert await letters(jobs) == 1


@pytest.mark.parametrize("point", ["before write 2", "after write 2", "before nak"])
async def test_a_release_that_crashes(point, config, monkeypatch, jobs, entity) -> None:
    dying, started, runs = JobService(config), asyncio.Event(), 0

    async def slow(payload: object) -> str:
        nonlocal runs
        runs += 1
        started.set()
        if runs == 1:
            await asyncio.sleep(60)
        return "done"

    for service in (dying, jobs):
        service.register_handler("t", slow)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity)
    async with dying:
        crasher = Crasher(dying, point, monkeypatch)
        await crasher.worker.start()
        await started.wait()
        stopping = asyncio.ensure_future(crasher.worker.stop(grace=0))
        await crasher.crashed.wait()
        await dying.close()
        await stopping
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    status = await jobs.status(job_id)
    # A release that was written burns no attempt; one that was not looks like a lost worker.
    assert (runs, status.attempts) == (2, 2 if point == "before write 2" else 1)


@pytest.mark.parametrize(
    ("point", "attempts"),
    [
        ("before write 2", 2),  # the snooze itself was never written: it looks like a lost worker
        ("after write 2", 1),  # written: the redelivery waits the rest out
        ("before write 3", 1),  # dead at the end of its sleep
        ("after write 3", 2),  # begun on paper once more: that attempt counts
    ],
)
async def test_a_snooze_that_crashes(point, attempts, config, monkeypatch, jobs, entity) -> None:
    handler = Handler(failures=1, error=JobService.Snooze(0.5))
    status = await crash_then_recover(point, handler, config, monkeypatch, jobs, entity)
    assert (status.status, handler.runs, status.attempts) == ("complete", 2, attempts)
    assert status.snoozed_until is None
    assert len([item for item in status.history if item.error]) == attempts - 1
    assert await letters(jobs) == 0


async def test_a_worker_that_dies_while_it_holds_a_snoozed_job(config, jobs, entity) -> None:
    loop, began = asyncio.get_running_loop(), []

    async def snooze(payload: object) -> str:
        began.append(loop.time())
        if len(began) == 1:
            raise JobService.Snooze(3)
        return "done"

    dying = JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", snooze)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity)
    async with dying:
        await dying.worker().start()
        await eventually(lambda: is_snoozed(jobs, job_id))
        await dying.close()  # and nothing is said to the server any more
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
        await eventually(lambda: queue_is_empty(jobs))
    assert began[1] - began[0] >= 3
    status = await jobs.status(job_id)
    assert [item.status for item in status.history] == ["processing", "queued", "processing", "complete"]


@pytest.mark.parametrize(
    ("point", "attempts"),
    [
        ("before write 4", 2),  # begun on paper, and not taken back: that attempt counts
        ("after write 4", 1),  # taken back: whoever gets it next starts it, once the shard is resumed
        ("before nak", 1),
    ],
)
async def test_a_snooze_that_ends_in_a_pause_and_crashes(point, attempts, config, monkeypatch, jobs) -> None:
    handler, dying = Handler(failures=1, error=JobService.Snooze(1)), JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", handler)
    job_id = await jobs.submit("t", {}, priority="low", entity="e")
    async with dying:
        crasher = Crasher(dying, point, monkeypatch)
        dies = asyncio.ensure_future(crasher.run_until_crash())
        await eventually(lambda: is_snoozed(jobs, job_id))
        await jobs.pause("low")
        await dies
    async with jobs.worker():
        assert handler.runs == 1
        await jobs.resume("low")
        assert await jobs.result(job_id, timeout=20) == "done"
    assert (handler.runs, (await jobs.status(job_id)).attempts) == (2, attempts)


async def is_snoozed(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).snoozed_until is not None


@pytest.mark.parametrize(
    ("point", "expired"),
    [
        ("before write 1", "dead_letter"),  # nobody said so: the redelivery finds it expired
        ("after write 1", "dead_letter"),  # dead, without a letter: the redelivery sends it
        ("before letter", "dead_letter"),
        ("after letter", "dead_letter"),  # the letter is sent again
        ("before term", "dead_letter"),
        ("before write 1", "drop"),
        ("after write 1", "drop"),  # dead, and it expires: no letter is wanted
        ("before term", "drop"),
    ],
)
async def test_an_expiry_that_crashes(point, expired, config, monkeypatch, jobs, entity) -> None:
    handler, dying = Handler(), JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", handler)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity, expires=0.01, expired=expired)
    await asyncio.sleep(0.1)  # the time that this is about
    async with dying:
        await Crasher(dying, point, monkeypatch).run_until_crash()
    async with jobs.worker():
        async for status in jobs.watch(job_id):
            ended = status
        await eventually(lambda: queue_is_empty(jobs))
        found = await state_of(jobs).read(job_id)
    assert (ended.status, ended.error_reason, handler.runs) == ("failed", "Timeout", 0)
    assert [item.status for item in ended.history] == ["failed"]
    assert found.expires is (expired == "drop")  # else the router lets it expire, once the letter is stored
    assert await letters(jobs) == (expired == "dead_letter")


async def test_an_expiry_after_a_start_that_took_long_which_crashes(config, monkeypatch, jobs, entity) -> None:
    handler, dying = Handler(), JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", handler)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity, expires=60)
    async with dying:
        clock, asked = ServerClock.now, []

        async def later_each_time(self: ServerClock):
            asked.append(1)
            return await clock(self) + timedelta(hours=len(asked) - 1)

        with monkeypatch.context() as slow:
            slow.setattr(ServerClock, "now", later_each_time)
            await Crasher(dying, "before write 2", monkeypatch).run_until_crash()
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "done"
    assert (handler.runs, (await jobs.status(job_id)).attempts) == (1, 2)


# Write 1 is the one that expects no entry, and loses.
@pytest.mark.parametrize("point", ["before write 2", "after write 2", "before letter", "after letter", "before term"])
async def test_burying_a_job_of_dead_workers_that_crashes(point, config, monkeypatch, jobs, entity) -> None:
    runs = 0

    async def never(payload: object) -> None:
        nonlocal runs
        runs += 1

    dying = JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", never)
    job_id = await jobs.submit("t", {}, priority="low", entity=entity, max_attempts=1)
    # A worker that died a while ago, in the job's only attempt.
    lost = (await jobs.status(job_id)).model_copy(update={"status": "queued"})
    await state_of(jobs).write(lost.started(lost.created_at, "dead-worker"), expected=0)
    await asyncio.sleep(config.ack_wait)
    async with dying:
        await Crasher(dying, point, monkeypatch).run_until_crash()
    async with jobs.worker():
        async for status in jobs.watch(job_id):
            ended = status
        await eventually(lambda: queue_is_empty(jobs))
    assert (ended.status, ended.error_reason, runs) == ("failed", "MaxRetries", 0)
    assert "worker was lost" in ended.last_error
    assert await letters(jobs) == 1
