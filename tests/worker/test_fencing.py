"""A worker that lost its job cannot end it, and sends nothing more on that delivery."""

import asyncio
import time
from collections.abc import Callable

import pytest

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.state_store import Found
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.context import RequestContext
from jsjobs.model.job import utc_now
from jsjobs.worker.lease import LeaseKeeper
from taps import Deliveries, begun_runs, recorded_answers


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


async def test_a_stalled_worker_cannot_complete_what_another_took(config, deploy, monkeypatch) -> None:
    await deploy(config)
    stalled, other = JobService(config), JobService(config)
    at_work, go_on = asyncio.Event(), asyncio.Event()
    fences, answers, begun, renew = [], recorded_answers(monkeypatch), begun_runs(monkeypatch), Delivery.renew

    async def first(payload: object, ctx: JobService.Context) -> str:
        fences.append(ctx.fence)
        at_work.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            await go_on.wait()  # a handler that will not be stopped
        return "too late"

    async def second(payload: object, ctx: JobService.Context) -> str:
        fences.append(ctx.fence)
        return "in time"

    stalled.register_handler("t", first)
    other.register_handler("t", second)

    async def never_renewed(delivery: Delivery, timeout: float) -> None:
        """The process is frozen: no heartbeat leaves it."""
        if delivery is not begun[0].delivery:
            await renew(delivery, timeout)

    monkeypatch.setattr(Delivery, "renew", never_renewed)
    async with stalled, other:
        deliveries = Deliveries(stalled.connection, Names(config.namespace), monkeypatch)
        job_id = await other.submit("t", {}, priority="low", entity="e")
        async with stalled.worker() as frozen:
            await at_work.wait()
            await deliveries.end("low-1x1-0")
            async with other.worker():
                assert await other.result(job_id) == "in time"
                go_on.set()
                await eventually(lambda: nothing_runs(frozen))
        status = await other.status(job_id)
        assert [answer for answer in answers if answer.connection is stalled.connection] == []
    assert (status.status, status.result, status.attempts) == ("complete", "in time", 2)
    assert fences[1] > fences[0]


async def test_whoever_finds_its_entry_written_by_another_answers_nothing(jobs, monkeypatch) -> None:
    answers, runs, go_on = recorded_answers(monkeypatch), [], asyncio.Event()

    @jobs.handler("t")
    async def handler(payload: object, ctx: JobService.Context) -> int:
        runs.append(ctx.attempt)
        await go_on.wait()
        return ctx.attempt

    job_id = await jobs.submit("t", {}, priority="low")
    state = state_of(jobs)
    async with jobs.worker() as worker:
        await eventually(lambda: runs)
        found = await state.read(job_id)
        await state.write(found.entry.released(utc_now()), expected=found.revision)
        go_on.set()
        await eventually(lambda: nothing_runs(worker))
        assert answers == []
        assert (
            await jobs.result(job_id, 20) == 1
        )  # delivered again once `ack_wait` was over, and not acknowledged before
    assert runs == [1, 1]


async def test_a_handler_whose_lease_cannot_be_confirmed_is_interrupted(jobs, monkeypatch) -> None:
    answers, at_work, interrupted = recorded_answers(monkeypatch), asyncio.Event(), asyncio.Event()
    deliveries = Deliveries(jobs.connection, Names(jobs.config.namespace), monkeypatch)

    async def lost(delivery: Delivery, timeout: float) -> None:
        raise ConnectionLost("no answer")

    @jobs.handler("t")
    async def handler(payload: object) -> None:
        at_work.set()
        try:
            await asyncio.sleep(3600)
        finally:
            interrupted.set()

    monkeypatch.setattr(Delivery, "renew", lost)
    await jobs.submit("t", {}, priority="low", duration="long")
    async with jobs.worker() as worker:
        await at_work.wait()
        # No other delivery of it comes here, which would end it too.
        await deliveries.end("low-1x1-0")
        await eventually(interrupted.is_set)
        await eventually(lambda: nothing_runs(worker))
    assert answers == []


async def nothing_runs(worker) -> bool:
    return worker.running == 0


async def test_a_long_job_outlives_ack_wait_and_is_run_once(jobs, config) -> None:
    runs = 0

    @jobs.handler("t")
    async def slow(payload: object) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(config.ack_wait * 2.5)
        return "done"

    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    assert (runs, (await jobs.status(job_id)).attempts) == (1, 1)


async def test_a_long_job_whose_entry_another_wrote_is_interrupted(jobs, config) -> None:
    at_work, interrupted = asyncio.Event(), asyncio.Event()

    @jobs.handler("t")
    async def slow(payload: object) -> str:
        at_work.set()
        try:
            await asyncio.sleep(60)
        finally:
            interrupted.set()
        return "never"

    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker() as worker:
        await at_work.wait()
        found = await state_of(jobs).read(job_id)
        cancelled = found.entry.cancelled(found.entry.created_at)
        await state_of(jobs).write(cancelled, expected=found.revision, ttl=3600)
        async with asyncio.timeout(10):
            await interrupted.wait()
        await eventually(lambda: nothing_runs(worker))
    assert (await jobs.status(job_id)).status == "cancelled"


async def test_a_delivery_of_a_job_that_still_runs_here_is_answered_by_its_run(jobs, config, monkeypatch) -> None:
    runs = 0

    @jobs.handler("t")
    async def handler(payload: object) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(config.ack_wait * 3)
        return "done"

    async def lost(delivery: Delivery, timeout: float) -> None:
        """The server never hears the heartbeat, the worker believes it did."""

    monkeypatch.setattr(Delivery, "renew", lost)
    monkeypatch.setattr(Delivery, "age", lambda _: 0.0)
    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    assert (runs, (await jobs.status(job_id)).attempts) == (1, 1)


async def test_once_the_lease_is_over_a_delivery_ends_the_old_handler_first(jobs, config, monkeypatch) -> None:
    running, most, runs = 0, 0, 0

    @jobs.handler("t")
    async def handler(payload: object) -> str:
        nonlocal running, most, runs
        runs, running = runs + 1, running + 1
        most = max(most, running)
        try:
            if runs == 1:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(config.ack_wait)  # it takes its time, and the job is delivered again meanwhile
            raise
        finally:
            running -= 1
        return "done"

    async def lost(delivery: Delivery, timeout: float) -> None:
        """The server never hears the heartbeat."""

    monkeypatch.setattr(Delivery, "renew", lost)
    job_id = await jobs.submit("t", {}, duration="long")
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    assert (runs, most, (await jobs.status(job_id)).attempts) == (2, 1, 2)


class SlowState:
    """Answers a heartbeat's question when it is told to."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, job_id: str) -> Found:
        self.asked.set()
        await self.go_on.wait()
        return Found(None, self.revision, utc_now(), None, expires=False)


class Beating:
    """A run as its heartbeat sees it."""

    def __init__(self, revision: int) -> None:
        self.job_id = "low-1"
        self.context = RequestContext()
        self.delivery = self
        self.revision = revision
        self.renewing = False
        self.why: list[str] = []

    def age(self) -> float:
        return 15.0

    def needs_renewal(self) -> bool:
        return True

    def lose(self, why: str) -> None:
        self.why.append(why)


@pytest.mark.parametrize(("revision_now", "lost"), [(7, ["another worker took the job"]), (9, [])])
async def test_a_heartbeat_that_a_snooze_overtook_is_not_the_next_attempt_s(revision_now: int, lost: list[str]) -> None:
    """It asked of the attempt before; the answer tells of the snooze, or of the attempt that runs by now."""
    state, run = SlowState(revision=8), Beating(revision=7)
    keeper = LeaseKeeper(state, LeaseTime(30))  # type: ignore[arg-type]
    keeper.look(run)  # type: ignore[arg-type]
    await state.asked.wait()
    run.revision = revision_now
    state.go_on.set()
    await eventually(lambda: not run.renewing)
    assert run.why == lost


class Renewable(Beating):
    """A run whose delivery is renewed at once."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.taken_at = time.monotonic() - self.age()
        self.renewals = 0

    async def renew(self, timeout: float) -> None:
        self.renewals += 1
        self.taken_at = time.monotonic()


async def test_a_lease_is_confirmed_as_of_when_the_entry_was_asked_for() -> None:
    """Its entry may have been another worker's by the time that the server heard of the renewal."""
    state, run = SlowState(revision=7), Renewable(revision=7)
    keeper = LeaseKeeper(state, LeaseTime(30))  # type: ignore[arg-type]
    asked_before = time.monotonic()
    keeper.look(run)  # type: ignore[arg-type]
    await state.asked.wait()
    asked = time.monotonic()
    await asyncio.sleep(0.05)  # the time that this is about
    state.go_on.set()
    await eventually(lambda: not run.renewing)
    assert run.renewals == 1
    assert asked_before <= run.taken_at <= asked


async def test_an_entry_of_a_replica_that_lags_behind_confirms_no_lease_and_ends_none() -> None:
    state, run = SlowState(revision=6), Renewable(revision=7)
    keeper = LeaseKeeper(state, LeaseTime(30))  # type: ignore[arg-type]
    state.go_on.set()
    keeper.look(run)  # type: ignore[arg-type]
    await eventually(lambda: not run.renewing)
    assert (run.renewals, run.why) == (0, [])
