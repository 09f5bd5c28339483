"""Cancelling jobs: waiting, between attempts, running; on real servers."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import fetch_job
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import AlreadyEnded
from jsjobs.model.job import Priority, utc_now
from jsjobs.model.lanes import Queue

Status = JobService.Status


async def refused(jobs: JobService, job_id: str, **given: float) -> JobService.Error:
    with pytest.raises(JobService.Error) as caught:
        await jobs.cancel(job_id, **given)
    assert job_id in caught.value.message
    return caught.value


async def queued(connection: Connection, jobs: JobService, priority: str = "normal") -> int:
    info = await call(connection, f"STREAM.INFO.{jobs.config.namespace.upper()}_{priority.upper()}")
    count: int = info["state"]["messages"]
    return count


async def test_a_queued_job_is_never_run(jobs: JobService, connection: Connection) -> None:
    ran = []

    @jobs.handler("note")
    async def note(payload: str) -> None:
        ran.append(payload)

    first, second, third = await jobs.submit("note", ["first", "second", "third"], entity="one")
    status = await jobs.cancel(second)
    assert (status.status, status.attempts) == (Status.CANCELLED, 0)
    assert [item.status for item in status.history] == [Status.CANCELLED]
    assert await queued(connection, jobs) == 2
    async with jobs.worker():
        await asyncio.gather(jobs.result(first), jobs.result(third))
    assert ran == ["first", "third"]
    with pytest.raises(JobService.Error) as caught:
        await jobs.result(second)
    assert caught.value.reason == "AlreadyCancelled"


async def test_the_entry_of_a_cancelled_job_expires(jobs: JobService, plain: Client) -> None:
    job_id = await jobs.submit("note", "x")
    await jobs.cancel(job_id)
    entry = await plain.jetstream().get_last_msg(f"KV_{jobs.config.namespace}", f"$KV.{jobs.config.namespace}.{job_id}")
    assert entry.headers["Nats-TTL"] == f"{int(jobs.config.result_ttl)}s"


async def test_each_refusal_says_what_the_job_is(jobs: JobService) -> None:
    @jobs.handler("note")
    async def note(payload: str) -> None:
        if payload == "dies":
            raise JobService.Error.from_validation("it shall die")

    waiting = await jobs.submit("note", "waits")
    await jobs.cancel(waiting)
    assert (await refused(jobs, waiting)).reason == "AlreadyCancelled"
    async with jobs.worker():
        done, dead = await jobs.submit("note", ["lives", "dies"])
        await jobs.result(done)
        with pytest.raises(JobService.Error):
            await jobs.result(dead)
    for ended, word in ((done, "complete"), (dead, "dead")):
        error = await refused(jobs, ended)
        assert isinstance(error, AlreadyEnded)
        assert word in error.message
    for unknown in ("normal-1", "at-nothing", "replay-1-nothing", "no id"):
        assert (await refused(jobs, unknown)).reason == "NotFound"


@pytest.mark.parametrize("wrong", [None, 17, b"normal-1", ["normal-1"]])
async def test_what_is_no_text_is_no_id(jobs: JobService, wrong: object) -> None:
    with pytest.raises(JobService.Error, match="a job id must be a string, not"):
        await jobs.cancel(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, "soon", -1, float("nan"), True])
async def test_what_is_no_time_to_wait_cancels_nothing(jobs: JobService, wrong: object) -> None:
    job_id = await jobs.submit("note", "x")
    with pytest.raises(JobService.Error, match="the timeout must be seconds, zero or more"):
        await jobs.cancel(job_id, timeout=wrong)  # type: ignore[arg-type]
    assert (await jobs.status(job_id)).status is Status.QUEUED


async def test_the_id_of_another_namespace_is_not_known(
    jobs: JobService, settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]
) -> None:
    config = settings_of(namespace=f"{jobs.config.namespace}b")
    await deploy(config)
    job_id = await jobs.submit("note", "x")
    async with JobService(config) as other:
        assert (await refused(other, job_id)).reason == "NotFound"
    assert (await jobs.status(job_id)).status is Status.QUEUED


async def test_a_running_async_handler_is_interrupted_and_its_finally_runs(jobs: JobService) -> None:
    told: list[str] = []
    started = asyncio.Event()

    @jobs.handler("sleep")
    async def sleep(payload: str, ctx: JobService.Context) -> None:
        if payload == "next":
            told.append("the shard goes on")
            return
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            assert ctx.cancelled
            await asyncio.sleep(0)
            told.append("cleaned up")

    async with jobs.worker():
        running = await jobs.submit("sleep", "long", entity="one", duration="long")
        behind = await jobs.submit("sleep", "next", entity="one")
        await started.wait()
        status = await jobs.cancel(running)
        assert [item.status for item in status.history] == [Status.PROCESSING, Status.CANCELLED]
        assert told[:1] == ["cleaned up"]
        await jobs.result(behind)
        assert told == ["cleaned up", "the shard goes on"]
        assert (await refused(jobs, running)).reason == "AlreadyCancelled"


async def test_a_handler_in_a_thread_is_told_and_waited_for(jobs: JobService) -> None:
    started = threading.Event()
    seen = []

    @jobs.handler("loop")
    def loop(payload: str, ctx: JobService.Context) -> str:
        started.set()
        deadline = time.monotonic() + 20
        while not ctx.cancelled and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(ctx.cancelled)
        return "a result that nobody wants any more"

    async with jobs.worker():
        job_id = await jobs.submit("loop", "x")
        await asyncio.to_thread(started.wait, 20)
        status = await jobs.cancel(job_id)
        assert seen == [True]
        assert status.result is None


async def test_a_job_between_two_attempts_is_cancelled_and_frees_its_shard(jobs: JobService) -> None:
    attempts = []

    @jobs.handler("fails", retry=JobService.Retry(initial=600, max_backoff=3600))
    async def fails(payload: str) -> None:
        attempts.append(payload)
        if payload == "fails":
            raise RuntimeError("not now")

    async with jobs.worker():
        failing = await jobs.submit("fails", "fails", entity="one")
        behind = await jobs.submit("fails", "next", entity="one")

        async def waits() -> bool:
            return (await jobs.status(failing)).next_attempt_at is not None

        await eventually(waits)
        status = await jobs.cancel(failing)
        assert [item.status for item in status.history] == [Status.PROCESSING, Status.QUEUED, Status.CANCELLED]
        assert status.next_attempt_at is None
        await jobs.result(behind)
    assert attempts == ["fails", "next"]


async def test_who_does_not_stop_is_said_to_be_stopping_and_is_cancelled_in_the_end(jobs: JobService) -> None:
    started, enough = threading.Event(), threading.Event()

    @jobs.handler("stubborn")
    def stubborn(payload: str) -> None:
        started.set()
        enough.wait(20)

    async with jobs.worker():
        job_id = await jobs.submit("stubborn", "x", duration="long")
        await asyncio.to_thread(started.wait, 20)
        error = await refused(jobs, job_id, timeout=0.3)
        assert error.reason == "Timeout"
        assert "still stopping" in error.message
        enough.set()

        async def is_cancelled() -> bool:
            return (await jobs.status(job_id)).status is Status.CANCELLED

        await eventually(is_cancelled)


async def test_a_cancel_deletes_no_other_job_at_the_same_place_of_a_stream_made_anew(jobs: JobService) -> None:
    """An entry outlived its queue, whose next job has its place: it is known by the time when it was stored."""
    names, ran = Names(jobs.config.namespace), list[object]()
    jobs.register_handler("note", ran.append)
    before = await jobs.submit("note", "before", priority="low", entity="e")
    sequence, state = int(before.partition("-")[2]), StateStore(jobs.connection, names)
    queue = names.stream("low")
    job = await fetch_job(jobs.connection, names, Queue(Priority.LOW), sequence)
    assert job is not None
    await state.write(job.begun(utc_now(), "w").retried(utc_now(), "bad", due=utc_now(), retry=None), expected=0)
    config = (await call(jobs.connection, f"STREAM.INFO.{queue}"))["config"]
    shard = (await call(jobs.connection, f"CONSUMER.INFO.{queue}.low-1x1-0"))["config"]
    await call(jobs.connection, f"STREAM.DELETE.{queue}")
    await call(jobs.connection, f"STREAM.CREATE.{queue}", {**config, "first_seq": sequence})
    request = {"stream_name": queue, "config": shard}
    await call(jobs.connection, f"CONSUMER.DURABLE.CREATE.{queue}.{shard['durable_name']}", request)
    after = await jobs.submit("note", "after", priority="low", entity="e")
    assert after == before
    assert (await jobs.cancel(before)).status is JobService.Status.CANCELLED
    assert (await call(jobs.connection, f"STREAM.INFO.{queue}"))["state"]["messages"] == 1
    async with jobs.worker():
        await eventually(lambda: ran)
    assert ran == ["after"]
