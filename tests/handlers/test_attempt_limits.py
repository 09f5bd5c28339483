"""How often and how long a job may run: what its publisher said, else what its handler says, else the default."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually, is_processing
from jsjobs import JobService
from jsjobs.handlers.attempt_limits import with_terms
from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.jetstream.protocol.headers import JobHeaders
from jsjobs.model.errors import JobError
from jsjobs.model.job import Carrier, Duration, Priority
from jsjobs.model.lanes import Queue

QUICK = {"initial": 0.001, "jitter": (1, 1)}
CARRIER = Carrier(stream="JOBS_NORMAL", sequence=7, stored_at=datetime(2026, 11, 22, 12, tzinfo=UTC))
Service = Callable[..., Any]


def job(**headers: Any) -> IncomingJob:
    return IncomingJob("normal-7", "t", Queue(Priority.NORMAL), 0, JobHeaders(**headers), None, CARRIER, b"null")


@pytest.mark.parametrize(
    ("said", "handler", "effective"), [(2, 9, 2), (20, 9, 20), (None, 9, 9), (None, None, 3), (5, None, 5)]
)
def test_what_the_publisher_says_wins_then_the_handler_s_policy_then_three(
    said: int | None, handler: int | None, effective: int
) -> None:
    assert with_terms(job(max_attempts=said), handler, 25).entry().max_attempts == effective


@pytest.mark.parametrize(
    ("duration", "timeout", "effective"),
    [
        *((None, None, None), (None, 25, None), (None, 25.001, "long"), (None, 60, "long"), ("short", 25, "short")),
        *(("long", 1, "long"), ("long", 60, "long"), ("long", None, "long"), ("short", None, "short")),
    ],
)
def test_a_timeout_that_no_short_job_has_makes_the_job_long(
    duration: str | None, timeout: float | None, effective: str | None
) -> None:
    own = None if duration is None else Duration(duration)
    known = with_terms(job(duration=own, timeout=timeout), None, 25)
    assert (known.headers.duration, known.headers.timeout, known.problem) == (effective, timeout, None)


def test_a_short_job_cannot_have_it() -> None:
    refused = with_terms(job(duration=Duration.SHORT, timeout=60.0), None, 25)
    with pytest.raises(JobError, match=r"60 s is longer than a short job may run, 25 s .*: leave the duration out, or"):
        raise refused.problem  # type: ignore[misc]
    # What could not be read before is the first thing to tell.
    broken = job(duration=Duration.SHORT, timeout=60.0)._replace(problem=JobError.from_validation("broken"))
    assert with_terms(broken, None, 25).problem is broken.problem


# -- on a real server


def failing(runs: list[int]) -> Callable[..., Awaitable[None]]:
    async def handler(payload: object, ctx: JobService.Context) -> None:
        runs.append(ctx.attempt)
        raise ValueError("no")

    return handler


@pytest.mark.parametrize(
    ("policy", "options", "attempts"),
    [
        ({"max_retries": 8}, {}, 9),
        ({"max_retries": 8}, {"max_attempts": 2}, 2),
        ({"max_retries": 0}, {}, 1),
        ({}, {}, 6),
        (None, {}, 3),
    ],
)
async def test_a_job_is_tried_as_often_as_its_handler_s_policy_says(
    jobs: JobService, policy: dict[str, Any] | None, options: dict[str, Any], attempts: int
) -> None:
    runs: list[int] = []
    retry = None if policy is None else JobService.Retry(**QUICK, **policy)
    jobs.register_handler("fails", failing(runs), retry=retry)
    job_id = await jobs.submit("fails", **options)
    assert (await jobs.status(job_id)).max_attempts == options.get("max_attempts", 3)
    async with jobs.worker():
        with pytest.raises(JobService.Error, match="no") as caught:
            await jobs.result(job_id, timeout=20)
    status = await jobs.status(job_id)
    assert (caught.value.reason, runs) == ("MaxRetries", list(range(1, attempts + 1)))
    assert (status.attempts, status.max_attempts) == (attempts, attempts)


async def test_a_policy_of_the_settings_that_says_so_counts_too(service: Service) -> None:
    runs: list[int] = []
    own: list[int] = []
    async with service(retry=JobService.Retry(**QUICK, max_retries=4)) as jobs:
        jobs.register_handler("fails", failing(runs))
        jobs.register_handler("has-its-own", failing(own), retry=JobService.Retry(**QUICK, max_retries=1))
        async with jobs.worker():
            for job_type in ("fails", "has-its-own"):
                with pytest.raises(JobService.Error, match="no"):
                    await jobs.result(await jobs.submit(job_type), timeout=20)
    assert (runs, own) == ([1, 2, 3, 4, 5], [1, 2])


@asynccontextmanager
async def sleeping(jobs: JobService) -> AsyncIterator[asyncio.Event]:
    """A worker whose handler ends once the event is set."""
    go_on = asyncio.Event()

    @jobs.handler("sleeps", retry=JobService.Retry(**QUICK, max_retries=6))
    async def sleeps(payload: object) -> str:
        await go_on.wait()
        return "done"

    async with jobs.worker():
        yield go_on


async def raw(plain: Client, jobs: JobService, **headers: str) -> str:
    """Publish a job as any NATS client does."""
    named = {f"Jsjobs-{name.replace('_', '-')}": value for name, value in headers.items()}
    ack = await plain.jetstream().publish(f"{jobs.config.namespace}.normal.e.sleeps", b"null", headers=named or None)
    return f"normal-{ack.seq}"


async def test_the_entry_says_the_handler_s_attempts_as_soon_as_a_worker_has_it(
    jobs: JobService, plain: Client
) -> None:
    async with sleeping(jobs) as go_on:
        ids = [
            await raw(plain, jobs),
            await jobs.submit("sleeps", delay=0.1, priority="high"),
            await jobs.submit("sleeps", max_attempts=2, priority="critical"),
        ]
        for job_id, attempts in zip(ids, (7, 7, 2), strict=True):
            await eventually(lambda job_id=job_id: is_processing(jobs, job_id))
            assert (await jobs.status(job_id)).max_attempts == attempts
        go_on.set()
        assert await jobs.results(ids, timeout=20) == ["done"] * 3


async def test_a_job_with_a_timeout_above_a_short_job_s_runs_for_as_long(jobs: JobService, plain: Client) -> None:
    """With an `ack_wait` of 2 s a short job has 1.3 s."""
    async with sleeping(jobs) as go_on:
        ids = [await jobs.submit("sleeps", timeout=60, priority="high"), await raw(plain, jobs, Timeout="60")]
        for job_id in ids:
            await eventually(lambda job_id=job_id: is_processing(jobs, job_id))
        await asyncio.sleep(3)
        go_on.set()
        assert await jobs.results(ids, timeout=20) == ["done"] * 2
        assert [(await jobs.status(job_id)).attempts for job_id in ids] == [1, 1]


async def test_a_timeout_that_makes_a_job_long_is_its_limit(jobs: JobService) -> None:
    async with sleeping(jobs):
        job_id = await jobs.submit("sleeps", timeout=1.6, max_attempts=1)
        with pytest.raises(JobService.Error, match=r"ran longer than 1\.6 s"):
            await jobs.result(job_id, timeout=20)


async def test_a_short_job_with_such_a_timeout_is_refused(jobs: JobService, plain: Client) -> None:
    why = r"a timeout of 60 s is longer than a short job may run, 1\.\d+ s .*leave the duration out, or make it long"
    with pytest.raises(JobService.Error, match=why) as caught:
        await jobs.submit("sleeps", timeout=60, duration="short")
    assert caught.value.reason == "Validation"
    with pytest.raises(JobService.Error, match=why):
        await jobs.schedules.add("s", "sleeps", every=60, timeout=60, duration="short")
    async with sleeping(jobs) as go_on:
        go_on.set()
        with pytest.raises(JobService.Error, match=why) as caught:
            await jobs.result(await raw(plain, jobs, Timeout="60", Duration="short"), timeout=20)
        assert caught.value.reason == "Validation"
        assert await jobs.result(await raw(plain, jobs, Timeout="1", Duration="short"), timeout=20) == "done"
