"""An ordered job whose handler snoozes is called again later: by whom, when, and what may happen meanwhile."""

import asyncio
import gc
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client

import process_handlers as handlers
from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import utc_now
from jsjobs.worker.executor import Handling
from taps import Deliveries, begun_runs, recorded_answers

Status = JobService.Status
LONG = 3600


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


class Sleepy:
    """Snoozes the first `times` runs for so many seconds; remembers when it ran, and as which attempt."""

    def __init__(self, seconds: float, times: int = 1) -> None:
        self.seconds = seconds
        self.times = times
        self.attempts: list[int] = []
        self.began: list[float] = []

    async def __call__(self, payload: object, ctx: JobService.Context) -> str:
        self.began.append(time.monotonic())
        self.attempts.append(ctx.attempt)
        if len(self.began) <= self.times:
            raise JobService.Snooze(self.seconds)
        return "done"


async def consumer_of(jobs: JobService, priority: str = "low") -> dict[str, Any]:
    stream = Names(jobs.config.namespace).stream(priority)
    return await call(jobs.connection, f"CONSUMER.INFO.{stream}.{priority}-1x1-0")


async def messages(jobs: JobService) -> int:
    stream = Names(jobs.config.namespace).stream("low")
    count: int = (await call(jobs.connection, f"STREAM.INFO.{stream}"))["state"]["messages"]
    return count


async def snoozing(jobs: JobService, job_id: str) -> JobService.Response.Status:
    """The job's status, once it snoozes."""

    async def look() -> JobService.Response.Status | None:
        status = await jobs.status(job_id)
        return status if status.snoozed_until is not None else None

    found = await eventually(look)
    assert found is not None
    return found


async def test_the_job_comes_back_after_the_time_and_burns_no_attempt(jobs: JobService) -> None:
    handler = Sleepy(0.4, times=2)
    jobs.register_handler("t", handler)
    job_id = await jobs.submit("t", priority="low", entity="e", max_attempts=1)
    async with jobs.worker():
        waiting = await snoozing(jobs, job_id)
        assert (waiting.status, waiting.attempts, waiting.last_error) == ("queued", 0, None)
        assert waiting.snoozed_until == waiting.next_attempt_at
        assert await jobs.result(job_id, timeout=20) == "done"
    first, second, third = handler.began
    assert min(second - first, third - second) >= 0.4
    assert handler.attempts == [1, 1, 1]
    status = await jobs.status(job_id)
    assert (status.status, status.attempts, status.snoozed_until) == ("complete", 1, None)
    assert [item.status for item in status.history] == [*["processing", "queued"] * 2, "processing", "complete"]
    assert b"snoozed_until" not in status.to_json()


async def test_plain_handlers_snooze_in_threads_and_in_processes(jobs: JobService, tmp_path: Any) -> None:
    calls = []

    @jobs.handler("thread")
    def thread(payload: object) -> str:
        calls.append(payload)
        if len(calls) == 1:
            raise JobService.Snooze(0.1)
        return "awake"

    jobs.register_handler("process", handlers.snooze_once, run_in="process")
    async with jobs.worker():
        one = await jobs.submit("thread", priority="low")
        other = await jobs.submit("process", str(tmp_path / "called"), priority="high")
        assert await jobs.result(one, timeout=20) == "awake"
        assert await jobs.result(other, timeout=60) == "awake"
    for job_id in (one, other):
        status = await jobs.status(job_id)
        assert [item.status for item in status.history] == ["processing", "queued", "processing", "complete"]
        assert status.attempts == 1


async def test_more_snoozes_than_deliveries_do_not_kill_a_job(jobs: JobService) -> None:
    handler = Sleepy(0.001, times=150)
    jobs.register_handler("t", handler)
    job_id = await jobs.submit("t", priority="low", entity="e")
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=60) == "done"
        info = await consumer_of(jobs)
    assert (info["delivered"]["consumer_seq"], info["num_redelivered"]) == (1, 0)
    status = await jobs.status(job_id)
    assert (len(handler.began), status.attempts) == (151, 1)
    assert len(status.history) == 100
    assert status.history_dropped == 302 - 100


@pytest.mark.long
async def test_snoozes_without_end_leave_nothing_in_memory(jobs: JobService) -> None:
    left, attempts = list[int](), list[int]()

    @jobs.handler("t")
    async def count(payload: object, ctx: JobService.Context) -> None:
        if len(left) % 20 == 0:
            gc.collect()  # what is left then is held by something
            attempts.append(sum(type(it) is Handling for it in gc.get_objects()))
        left.append(len(asyncio.all_tasks()))
        if len(left) < 300:
            raise JobService.Snooze(1e-6)

    async with jobs.worker():
        await jobs.result(await jobs.submit("t", priority="low", entity="e"), timeout=60)
    assert left[-1] <= left[10]
    assert max(attempts) <= 2


async def test_a_snooze_of_several_leases_is_one_delivery_and_holds_its_place(jobs: JobService) -> None:
    handler, after = Sleepy(2.5), []
    jobs.register_handler("t", handler)
    jobs.register_handler("behind", after.append)
    async with jobs.worker():
        job_id = await jobs.submit("t", priority="low", entity="e")
        await snoozing(jobs, job_id)
        behind = await jobs.submit("behind", "x", priority="low", entity="e")
        assert await jobs.result(job_id, timeout=20) == "done"
        await jobs.result(behind)
        info = await consumer_of(jobs)
    assert (info["delivered"]["consumer_seq"], after) == (2, ["x"])
    assert handler.began[1] - handler.began[0] >= 2.5
    done, begun = (await jobs.status(job_id)).completed_at, (await jobs.status(behind)).history[0].timestamp
    assert done is not None
    assert begun >= done


async def test_a_long_job_s_snooze_leaves_its_lease_and_its_next_attempt_alone(jobs: JobService) -> None:
    fences: list[int] = []

    @jobs.handler("t")
    async def slow(payload: object, ctx: JobService.Context) -> str:
        fences.append(ctx.fence)
        await asyncio.sleep(jobs.config.ack_wait * 1.5)
        if len(fences) == 1:
            raise JobService.Snooze(jobs.config.ack_wait * 1.5)
        return "done"

    async with jobs.worker():
        job_id = await jobs.submit("t", priority="low", entity="e", duration="long")
        assert await jobs.result(job_id, timeout=20) == "done"
        assert (await consumer_of(jobs))["delivered"]["consumer_seq"] == 1
    assert fences == sorted(set(fences))
    assert len(fences) == 2


async def test_an_attempt_after_a_snooze_has_a_context_of_its_own(jobs: JobService) -> None:
    secret: ContextVar[str] = ContextVar("secret", default="none")
    seen = []

    @jobs.handler("t")
    async def handler(payload: object, ctx: JobService.Context) -> None:
        seen.append((secret.get(), jobs.current_context().job_id == ctx.job_id))
        secret.set("of the attempt before")
        if len(seen) == 1:
            raise JobService.Snooze(0.01)

    async with jobs.worker():
        await jobs.result(await jobs.submit("t", priority="low", entity="e"))
    assert seen == [("none", True)] * 2


async def test_a_snooze_that_is_none_kills_the_job_with_words(jobs: JobService) -> None:
    @jobs.handler("t")
    async def wrong(payload: float) -> None:
        raise JobService.Snooze(payload)

    async with jobs.worker():
        with pytest.raises(JobService.Error, match="a snooze must be above 0 seconds") as caught:
            await jobs.result(await jobs.submit("t", -5, priority="low"), timeout=20)
    assert caught.value.reason == "Validation"


async def test_a_snoozing_job_is_cancelled_at_once_and_its_worker_lets_it_go(jobs: JobService) -> None:
    handler, behind = Sleepy(LONG), []
    jobs.register_handler("t", handler)
    jobs.register_handler("behind", behind.append)
    async with jobs.worker() as worker:
        job_id = await jobs.submit("t", priority="low", entity="e")
        await snoozing(jobs, job_id)
        after = await jobs.submit("behind", "x", priority="low", entity="e")
        status = await jobs.cancel(job_id)
        assert (status.status, status.snoozed_until, status.next_attempt_at) == ("cancelled", None, None)
        await jobs.result(after, timeout=20)
        await eventually(lambda: worker.running == 0)
    assert (len(handler.began), behind) == (1, ["x"])
    assert await jobs.status(job_id) == status
    assert await messages(jobs) == 0


async def test_a_request_to_stop_that_comes_late_ends_the_snooze(jobs: JobService, plain: Client) -> None:
    """Whoever asked saw the job run, and may be gone by now."""
    handler = Sleepy(LONG)
    jobs.register_handler("t", handler)
    async with jobs.worker():
        job_id = await jobs.submit("t", priority="low", entity="e")
        await snoozing(jobs, job_id)
        await plain.request(f"{jobs.config.namespace}.cancel.{job_id}", b"", timeout=20)

        async def is_cancelled() -> bool:
            return (await jobs.status(job_id)).status is Status.CANCELLED

        await eventually(is_cancelled)
    assert len(handler.began) == 1


async def test_a_stop_gives_a_snoozing_job_back_until_it_is_due(jobs: JobService) -> None:
    handler = Sleepy(2.5)
    jobs.register_handler("t", handler)
    job_id = await jobs.submit("t", priority="low", entity="e")
    async with jobs.worker() as worker:
        before = await snoozing(jobs, job_id)
        asked_at = time.monotonic()
        await worker.stop(30)
        assert time.monotonic() - asked_at < 2
        assert worker.running == 0
    assert await jobs.status(job_id) == before
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "done"
        # However many workers come and go, the server itself waits: that is one delivery more.
        assert (await consumer_of(jobs))["delivered"]["consumer_seq"] == 2
    assert handler.began[1] - handler.began[0] >= 2.5
    assert handler.attempts == [1, 1]


async def test_a_handler_that_snoozes_while_its_worker_stops_is_not_waited_for(jobs: JobService) -> None:
    at_work, may_end = asyncio.Event(), asyncio.Event()

    @jobs.handler("t")
    async def handler(payload: object) -> None:
        at_work.set()
        await may_end.wait()
        raise JobService.Snooze(LONG)

    job_id = await jobs.submit("t", priority="low", entity="e", duration="long")
    async with jobs.worker() as worker:
        await at_work.wait()
        stopping = asyncio.ensure_future(worker.stop(60))
        await eventually(lambda: not worker.taken)
        may_end.set()
        async with asyncio.timeout(10):
            await stopping
        assert worker.running == 0
    status = await snoozing(jobs, job_id)
    assert (status.attempts, [item.status for item in status.history]) == (0, ["processing", "queued"])
    assert (await jobs.cancel(job_id)).status == "cancelled"
    assert await messages(jobs) == 0


async def test_a_redelivery_waits_the_rest_out_once(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a server's restart: the same worker is given what it holds."""
    handler = Sleepy(1.5)
    jobs.register_handler("t", handler)
    begun = begun_runs(monkeypatch)
    deliveries = Deliveries(jobs.connection, Names(jobs.config.namespace), monkeypatch)
    job_id = await jobs.submit("t", priority="low", entity="e")
    async with jobs.worker() as worker:
        await snoozing(jobs, job_id)
        run = begun[0]
        for _ in range(3):
            deliveries.repeat(run.delivery)
        await asyncio.wait_for(run.ended.wait(), 1)
        assert run.delivery.lost
        assert await jobs.result(job_id, timeout=20) == "done"
        await eventually(lambda: worker.running == 0)
    assert len(handler.began) == 2
    assert handler.began[1] - handler.began[0] >= 1.5


async def test_a_delivery_that_could_not_be_kept_is_let_go(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, answers, renew = Sleepy(4), recorded_answers(monkeypatch), Delivery.renew
    jobs.register_handler("t", handler)

    async def lost(delivery: Delivery, timeout: float) -> None:
        if delivery.attempt == 1:
            raise ConnectionLost("no answer")
        await renew(delivery, timeout)

    monkeypatch.setattr(Delivery, "renew", lost)
    job_id = await jobs.submit("t", priority="low", entity="e")
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "done"
        assert (await consumer_of(jobs))["delivered"]["consumer_seq"] == 2
        await eventually(lambda: answers)
    assert [(answer.attempt, answer.data) for answer in answers] == [(2, b"+ACK")]
    assert handler.began[1] - handler.began[0] >= 4


async def test_another_worker_s_snooze_is_waited_out_whatever_its_clock_says(jobs: JobService) -> None:
    handler = Sleepy(0, times=0)
    jobs.register_handler("t", handler)
    job_id = await jobs.submit("t", priority="low", entity="e")
    a_year_ago = utc_now() - timedelta(days=365)
    queued = await jobs.status(job_id)
    snoozed = queued.started(a_year_ago, "another").snoozed(a_year_ago, a_year_ago + timedelta(seconds=1.5))
    before = time.monotonic()
    await state_of(jobs).write(snoozed, expected=0)
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "done"
    assert handler.began[0] - before >= 1.4  # the server's clock was asked for some milliseconds ago
    assert handler.attempts == [1]
