"""`jobs.pause` with real workers: no further job starts, what runs goes on, and nothing is lost or out of order."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance.sweep import Sweep
from jsjobs.model.job import Priority, utc_now
from jsjobs.worker import shard_monitor


class Handlers:
    """What ran, and when it may go on."""

    def __init__(self, jobs: JobService) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.go_on = asyncio.Event()
        jobs.register_handler("held", self.hold)
        jobs.register_handler("flaky", self.fail_once)
        jobs.register_handler("quick", self.note)

    async def hold(self, payload: Any) -> None:
        self.begun.append(payload)
        await self.go_on.wait()
        self.ended.append(payload)

    async def fail_once(self, payload: Any, ctx: JobService.Context) -> None:
        self.begun.append((payload, ctx.attempt))
        if ctx.attempt == 1:
            await self.go_on.wait()
            raise ValueError("again, please")

    async def note(self, payload: Any, ctx: JobService.Context) -> None:
        self.begun.append((ctx.entity, payload))


@pytest.fixture
def handlers(jobs: JobService) -> Handlers:
    return Handlers(jobs)


async def test_what_runs_goes_on_and_nothing_else_starts(jobs: JobService, handlers: Handlers) -> None:
    async with jobs.worker():
        first, second = await jobs.submit("held", [1, 2], priority="low", entity="e")
        await eventually(lambda: handlers.begun == [1])
        paused = await jobs.pause("low")
        assert (paused.priority, paused.until, paused.running) == (Priority.LOW, None, (first,))
        handlers.go_on.set()
        await jobs.result(first)
        # Other priorities are none of its business, and tell that the worker has had time to begin the next.
        await jobs.result(await jobs.submit("held", 3, priority="high"))
        assert handlers.begun == [1, 3]
        assert (await jobs.status(second)).status == "queued"
        await jobs.cancel(second)
        third = await jobs.submit("held", 4, priority="low", entity="e")
        assert await jobs.resume("low") is True
        await jobs.result(third, 20)
        assert handlers.begun == [1, 3, 4]
        assert await jobs.resume("low") is False


async def test_a_retry_that_falls_due_waits_for_the_resume(jobs: JobService, handlers: Handlers) -> None:
    async with jobs.worker():
        job_id = await jobs.submit("flaky", 1, priority="low", entity="e")
        await eventually(lambda: handlers.begun == [(1, 1)])
        await jobs.pause("low")
        handlers.go_on.set()

        async def is_overdue() -> bool:
            status = await jobs.status(job_id)
            due = status.next_attempt_at
            later = await jobs.status(await jobs.submit("quick", 0, priority="high"))
            return due is not None and later.created_at is not None and (later.created_at - due).total_seconds() > 1

        await eventually(is_overdue)
        assert (1, 2) not in handlers.begun
        # Said again, it finds no job that runs: one that waits for its next attempt does not.
        assert (await jobs.pause("low")).running == ()
        await jobs.resume("low")
        await jobs.result(job_id)
        assert (1, 2) in handlers.begun
        assert [item.status for item in (await jobs.status(job_id)).history] == [
            "processing",
            "queued",
            "processing",
            "complete",
        ]


async def snoozes(jobs: JobService, handlers: Handlers, seconds: float) -> str:
    """A job that snoozes once, held by a worker."""

    @jobs.handler("sleepy")
    async def sleepy(payload: object, ctx: JobService.Context) -> None:
        handlers.begun.append(("sleepy", ctx.attempt))
        if len(handlers.begun) == 1:
            raise JobService.Snooze(seconds)

    job_id = await jobs.submit("sleepy", priority="low", entity="e")

    async def is_snoozed() -> bool:
        return (await jobs.status(job_id)).snoozed_until is not None

    await eventually(is_snoozed)
    return job_id


async def test_a_snooze_that_is_over_waits_for_the_resume(
    jobs: JobService, handlers: Handlers, connection: Connection
) -> None:
    stream = Names(jobs.config.namespace).stream("low")
    async with jobs.worker() as worker:
        job_id = await snoozes(jobs, handlers, 1)
        async with asyncio.timeout(10):  # a job that sleeps holds no pause up
            assert (await jobs.pause("low")).running == ()
        await eventually(lambda: worker.running == 0)
        assert handlers.begun == [("sleepy", 1)]
        status = await jobs.status(job_id)
        assert (status.status, status.attempts, status.snoozed_until is None) == ("queued", 0, False)
        async with asyncio.timeout(10):
            assert (await jobs.pause("low")).running == ()
        info = await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0")
        assert (info["paused"], info["num_ack_pending"], info["delivered"]["consumer_seq"]) == (True, 1, 1)
        await jobs.resume("low")
        await jobs.result(job_id)
    assert handlers.begun == [("sleepy", 1)] * 2


async def test_a_pause_in_the_moment_a_snooze_is_over_lets_nothing_start(jobs: JobService, handlers: Handlers) -> None:
    begun: list[str] = []

    @jobs.handler("sleepy")
    async def sleepy(payload: float, ctx: JobService.Context) -> None:
        begun.append(ctx.job_id)
        if begun.count(ctx.job_id) == 1:
            raise JobService.Snooze(payload)

    async def decided(job_id: str) -> Any:
        """Its status, unless it runs, or a worker has just looked whether it may."""
        status = await jobs.status(job_id)
        return None if status.status == "processing" else status

    ends = []
    async with jobs.worker():
        for milliseconds in (*range(0, 60, 4), 1000):
            job_id = await jobs.submit("sleepy", milliseconds / 1000 + 0.001, priority="low", entity="e")
            await eventually(lambda job_id=job_id: job_id in begun)
            paused = await jobs.pause("low")
            paused_at = utc_now()
            await eventually(partial(decided, job_id))  # it may have snoozed only now, or run on
            await jobs.result(await jobs.submit("quick", 0, priority="high"))  # time to start it wrongly
            status = await eventually(partial(decided, job_id))
            ends.append(status.status)
            if status.status == "complete":
                started = [item.timestamp for item in status.history if item.status == "processing"]
                assert max(started) < paused_at
                assert job_id in paused.running or status.history[-1].timestamp < paused_at
            else:
                assert (status.status, begun.count(job_id)) == ("queued", 1)
            await jobs.resume("low")
            await jobs.result(job_id)
            assert begun.count(job_id) == 2
    assert ends[-1] == "queued"  # of a second, all of it is left


async def test_a_pause_that_is_over_before_the_snoozechanges_nothing(
    jobs: JobService, handlers: Handlers, connection: Connection
) -> None:
    stream = Names(jobs.config.namespace).stream("low")
    async with jobs.worker():
        job_id = await snoozes(jobs, handlers, 2)
        await jobs.pause("low")
        assert await jobs.resume("low")
        await jobs.result(job_id)
        info = await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0")
    assert info["delivered"]["consumer_seq"] == 1
    assert len((await jobs.status(job_id)).history) == 4


async def test_a_paused_priority_s_snoozing_job_is_cancelled_like_any_other(
    jobs: JobService, handlers: Handlers
) -> None:
    async with jobs.worker() as worker:
        held = await snoozes(jobs, handlers, 3600)
        await jobs.pause("low")
        assert (await jobs.cancel(held)).status == "cancelled"
        await eventually(lambda: worker.running == 0)
        after = await jobs.submit("quick", 1, priority="low", entity="e")
        await jobs.resume("low")
        await jobs.result(after)


async def test_a_worker_takes_no_paused_shard_for_a_stuck_one(
    jobs: JobService,
    handlers: Handlers,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shard_monitor, "INTERVAL", 0.05)
    asked: list[bytes] = []
    await jobs.pause("low")
    async with jobs.worker() as worker:
        job_id = await jobs.submit("quick", 1, priority="low", entity="e")
        lists = f"$JS.API.CONSUMER.LIST.{Names(jobs.config.namespace).stream('low')}".encode()
        await connection.receive(lists, lambda subject, *_: asked.append(subject))
        await eventually(lambda: len(asked) > 6)
        assert worker.ready
        assert "subscribing again" not in caplog.text
        assert handlers.begun == []
        await jobs.resume("low")
        await jobs.result(job_id)


async def test_the_sweep_restores_a_lost_shard_paused_and_buries_no_job_that_waits(
    jobs: JobService, handlers: Handlers, connection: Connection
) -> None:
    names = Names(jobs.config.namespace)
    recorder = DeadLetterRecorder(connection, names, StateStore(connection, names), jobs.dlq, result_ttl=3600)
    sweep = Sweep(connection, names, jobs.config, recorder)
    await jobs.pause("high")
    waiting = [await jobs.submit("quick", number, priority="high", entity=f"e{number}") for number in range(9)]
    await call(connection, f"CONSUMER.DELETE.{names.stream('high')}.high-1x3-1")
    await sweep.once()
    await sweep.once()
    shards = await live_shards(connection, names, (Priority.HIGH,))
    assert [info.paused_until for info in shards.values()] == [UNTIL_RESUMED] * 3
    async with jobs.worker():
        await jobs.result(await jobs.submit("quick", 0, priority="low"))
        assert len(handlers.begun) == 1
        await jobs.resume("high")
        for job_id in waiting:
            await jobs.result(job_id)
    assert await jobs.dlq.list() == []


async def test_a_pause_through_a_change_of_the_shard_count_keeps_every_entitys_order(
    jobs: JobService, handlers: Handlers, connection: Connection, settings_of: Callable[..., JobService.Config]
) -> None:
    names = Names(jobs.config.namespace)

    async def submit(numbers: range) -> None:
        for number in numbers:
            for entity in range(8):
                await jobs.submit("quick", number, priority="high", entity=f"e{entity}")

    async with jobs.worker():
        await submit(range(5))
        await jobs.pause("high")
        await submit(range(5, 10))
        begun = len(handlers.begun)
        topology = TopologyReconciler(connection, names, settings_of(pools={"high": 5}))
        changing = asyncio.ensure_future(topology.apply())

        async def moved() -> bool:
            return any(shard.generation.number == 2 for shard in await live_shards(connection, names))

        await eventually(moved)
        await submit(range(10, 15))
        await jobs.result(await jobs.submit("quick", 0, priority="low"))
        assert len(handlers.begun) == begun + 1
        assert not changing.done()
        await jobs.resume("high")
        await changing
        await jobs.pause("high")
        await submit(range(15, 20))
        await jobs.resume("high")
        await eventually(lambda: len(handlers.begun) == 1 + 8 * 20)
    seen = defaultdict(list)
    for entity, number in handlers.begun:
        seen[entity].append(number)
    assert {entity: seen[entity] for entity in seen if entity in {f"e{n}" for n in range(8)}} == {
        f"e{n}": list(range(20)) for n in range(8)
    }


async def test_pausing_again_and_again_under_load_loses_nothing(jobs: JobService, handlers: Handlers) -> None:
    async with jobs.worker():
        waiting = asyncio.ensure_future(jobs.submit("quick", list(range(300)), priority="normal", entity="e"))
        for _ in range(6):
            paused = await jobs.pause("normal")
            for job_id in paused.running:  # they end, and no other begins
                await jobs.result(job_id)
            begun = len(handlers.begun)
            await jobs.result(await jobs.submit("quick", -1, priority="low"))
            assert [payload for _, payload in handlers.begun[begun:]] == [-1]
            assert await jobs.resume("normal")
        await waiting
        await eventually(lambda: len(handlers.begun) == 306)
    assert sorted(payload for _, payload in handlers.begun if payload >= 0) == list(range(300))


@pytest.mark.parametrize("priority", ["urgent", "", 3, None])
async def test_a_priority_that_is_none_is_refused(jobs: JobService, priority: Any) -> None:
    doing: list[Awaitable[Any]] = [jobs.pause(priority), jobs.resume(priority)]
    for each in doing:
        with pytest.raises(JobService.Error, match="the priority must be one of critical, high, normal, low") as caught:
            await each
        assert caught.value.reason == "Validation"


@pytest.mark.parametrize("seconds", ["60", True, 0, -1, float("nan"), 1e12])
async def test_seconds_that_are_none_are_refused(jobs: JobService, seconds: Any) -> None:
    with pytest.raises(JobService.Error, match="seconds") as caught:
        await jobs.pause("low", seconds)
    assert caught.value.reason == "Validation"


async def test_a_namespace_without_streams_has_nothing_to_pause(config: JobService.Config) -> None:
    async with JobService(config) as jobs:
        with pytest.raises(JobService.Error, match="run `jsjobs streams apply`") as caught:
            await jobs.pause("low")
        assert caught.value.reason == "NotFound"


async def test_a_job_that_shows_signs_of_life_is_known_to_run(
    jobs: JobService, handlers: Handlers, connection: Connection
) -> None:
    stream = Names(jobs.config.namespace).stream("low")
    async with jobs.worker():
        job_id = await jobs.submit("held", 1, priority="low", entity="e", duration="long")
        await eventually(lambda: handlers.begun == [1])
        first = (await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0"))["delivered"]["last_active"]

        async def has_shown_one() -> bool:
            info = await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0")
            return info["delivered"]["last_active"] != first

        await eventually(has_shown_one)
        async with asyncio.timeout(15):
            assert (await jobs.pause("low")).running == (job_id,)
        handlers.go_on.set()
        await jobs.result(job_id)


async def test_a_job_that_waits_for_its_next_attempt_holds_no_pause_up(
    settings_of: Callable[..., JobService.Config], deploy: Callable[[JobService.Config], Awaitable[None]]
) -> None:
    config = settings_of(ack_wait=60)
    await deploy(config)
    async with JobService(config) as jobs:
        handlers = Handlers(jobs)
        handlers.go_on.set()
        async with jobs.worker():
            await jobs.pause("low")
            job_id = await jobs.submit("flaky", 1, priority="low", entity="e")
            await jobs.resume("low")
            await eventually(lambda: handlers.begun)
            for _ in range(3):  # wherever the first finds it, the others find it waiting, or ended
                async with asyncio.timeout(30):
                    await jobs.pause("low")
            await jobs.resume("low")
            await jobs.result(job_id)
