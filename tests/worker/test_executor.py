"""Running a handler, without any server."""

import asyncio
import functools
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from pydantic import BaseModel

from handler_runs import Runs, entry, handling
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.failure import describe
from jsjobs.model.context import current_context, request_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import utc_now
from jsjobs.model.retry import Retry, RetryState, Snooze
from jsjobs.worker.result import Cancelled, Complete, DeadLetter, Lost, Release, RetryAfter, SnoozeFor, Verdict
from jsjobs.worker.run_state import Stop


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def run(threads: ThreadPoolExecutor) -> Runs:
    return Runs(threads)


class Model(BaseModel):
    n: int


async def test_results_of_every_kind_of_handler(run: Runs) -> None:
    async def model(payload: Model) -> Model:
        return Model(n=payload.n + 1)

    def plain(payload: Model, ctx: JobContext) -> list[int]:
        return [payload.n, ctx.attempt]

    class Callable:
        async def __call__(self, payload: dict[str, int]) -> int:
            return payload["n"]

    async def nothing(payload: object) -> None:
        return None

    async def untyped(payload):
        return payload

    assert await run(model, b'{"n":1}') == Complete(b'{"n":2}')
    assert await run(plain, b'{"n":1}') == Complete(b"[1,1]")
    assert await run(Callable(), b'{"n":5}') == Complete(b"5")
    assert await run(nothing, b"null") == Complete(b"null")
    assert await run(untyped, b'["\\u00e4"]') == Complete('["ä"]'.encode())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"NaN", b'{"n":NaN}', b'{"n":"x"}', b"[1]", b'{"n":1} 2', b"\x00"]
)
async def test_a_payload_that_does_not_fit_is_dead_at_once(run: Runs, body: bytes) -> None:
    called = False

    async def model(payload: Model) -> None:
        nonlocal called
        called = True

    verdict = await run(model, body)
    assert isinstance(verdict, DeadLetter)
    assert (verdict.reason, called) == ("Validation", False)


async def test_what_a_dead_job_ended_in_is_kept_as_long_as_its_verdict(
    run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[weakref.ref[Model]] = []

    async def fails(payload: Model) -> None:
        seen.append(weakref.ref(payload))
        raise ValueError("no")

    caplog.set_level(logging.CRITICAL, "jsjobs.worker")  # what is logged is kept by pytest
    gc.collect()
    gc.disable()
    try:
        verdict = await run(fails, b'{"n":1}', of=entry(attempts=3))
        assert isinstance(verdict, DeadLetter)
        assert isinstance(verdict.cause, ValueError)
        assert seen[0]() is not None  # the traceback holds the handler's frame
        del verdict
        assert seen[0]() is None
    finally:
        gc.enable()


async def test_a_result_that_does_not_fit_says_so(run: Runs) -> None:
    async def wrong(payload: object) -> Model:
        return "no model"  # type: ignore[return-value]

    async def not_json(payload: object) -> object:
        return object()

    async def infinite(payload: object) -> float:
        return float("inf")

    for function in (wrong, not_json, infinite):
        verdict = await run(function)
        assert isinstance(verdict, DeadLetter)
        assert verdict.reason == "Validation"
        assert "result of t" in verdict.error


async def test_what_handlers_raise_decides(run: Runs) -> None:
    def raising(error: BaseException):
        async def handler(payload: object) -> None:
            raise error

        return handler

    retried = await run(raising(ValueError("bad")))
    assert isinstance(retried, RetryAfter)
    assert retried.error == "ValueError: bad"
    assert 0.08 <= retried.delay <= 0.12
    assert await run(raising(ValueError("bad")), of=entry(attempts=3)) == DeadLetter("MaxRetries", "ValueError: bad")
    assert await run(raising(JobError.from_validation("no"))) == DeadLetter("Validation", "Validation: no")
    assert isinstance(await run(raising(JobError.from_runner_unavailable("later"))), RetryAfter)
    assert isinstance(await run(raising(TimeoutError("mine"))), RetryAfter)
    assert isinstance(await run(raising(SystemExit(3))), RetryAfter)
    assert isinstance(await run(raising(BaseException("mine alone"))), RetryAfter)
    assert isinstance(await run(raising(asyncio.CancelledError())), RetryAfter)
    assert await run(raising(ValueError("x")), retry=Retry(max_retries=0)) == DeadLetter("MaxRetries", "ValueError: x")


@pytest.mark.parametrize(("attempt", "of", "is_last"), [(1, 1, True), (1, 2, False), (2, 3, False), (3, 3, True)])
async def test_a_handler_that_fails_has_max_attempts_and_not_one_more_or_less(
    run: Runs, attempt: int, of: int, *, is_last: bool
) -> None:
    async def fails(payload: object) -> None:
        raise ValueError("bad")

    verdict = await run(fails, of=entry(attempt, of), retry=Retry(initial=0.01))
    assert isinstance(verdict, DeadLetter) is is_last
    assert isinstance(verdict, RetryAfter) is not is_last


def test_an_error_whose_text_cannot_be_had_is_described() -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(HostileError()) == "HostileError: (its text cannot be read)"
    assert len(describe(ValueError("ü" * 10_000)).encode()) <= 4096


async def test_an_async_handler_past_its_limit_is_interrupted_and_waited_for(run: Runs) -> None:
    cleaned = False

    async def slow(payload: object) -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned = True

    verdict = await run(slow, limit=0.05)
    assert isinstance(verdict, RetryAfter)
    assert (verdict.error, cleaned) == ("Timeout: the handler ran longer than 0.05 s", True)


async def test_a_thread_past_its_limit_is_told_and_waited_for(run: Runs) -> None:
    ended = threading.Event()

    def slow(payload: object, ctx: JobContext) -> str:
        while not ctx.cancelled:
            time.sleep(0.005)
        time.sleep(0.2)  # nobody who does not wait for it comes later
        ended.set()
        return "too late"

    verdict = await run(slow, limit=0.05)
    assert isinstance(verdict, RetryAfter)
    assert verdict.error.startswith("Timeout: ")
    assert ended.is_set()


@pytest.mark.parametrize(
    ("reason", "expected"), [(Stop.RELEASE, Release()), (Stop.CANCEL, Cancelled()), (Stop.LOST, Lost("gone"))]
)
async def test_an_interrupted_handler_yields_the_reason(run: Runs, reason: Stop, expected: Verdict) -> None:
    at_work, started = handling(), asyncio.Event()

    async def slow(payload: object) -> None:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(run(slow, on=at_work))
    await started.wait()
    at_work.stop(reason, "gone")
    assert await task == expected
    assert at_work.context.cancelled


async def test_who_ends_in_spite_of_a_stopping_worker_has_ended_but_not_after_a_lost_lease(run: Runs) -> None:
    for reason, expected in ((Stop.RELEASE, Complete(b'"done"')), (Stop.LOST, Lost("gone"))):
        at_work, started = handling(), asyncio.Event()

        async def stubborn(payload: object, started: asyncio.Event = started) -> str:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "done"
            return "never"

        task = asyncio.ensure_future(run(_without_defaults(stubborn), on=at_work))
        await started.wait()
        at_work.stop(reason, "gone")
        assert await task == expected
        # What comes after must not be interrupted by the request that was answered.
        await asyncio.sleep(0)


def _without_defaults(function):
    async def handler(payload: object) -> str:
        return await function(payload)

    return handler


async def test_the_context_reaches_tasks_and_threads(run: Runs) -> None:
    async def task(payload: object) -> str | None:
        return current_context().tenant_id

    def thread(payload: object) -> str | None:
        return current_context().tenant_id

    with request_context(tenant_id="acme"):
        assert await run(task) == Complete(b'"acme"')
        assert await run(thread) == Complete(b'"acme"')


async def test_tearing_the_process_down_is_no_failure_of_the_job(run: Runs) -> None:
    started = asyncio.Event()

    async def slow(payload: object) -> None:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(run(slow, on=handling(is_torn_down=True)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_partial_of_an_async_function_is_one(run: Runs) -> None:
    async def add(number: int, payload: int) -> int:
        return number + payload

    assert await run(functools.partial(add, 2), b"3") == Complete(b"5")


async def test_a_snooze_is_the_verdict_of_whoever_raises_it(run: Runs) -> None:
    async def asynchronous(payload: object) -> None:
        raise Snooze(5)

    def plain(payload: object) -> None:
        raise Snooze(0.5)

    assert await run(asynchronous) == SnoozeFor(5)
    assert await run(plain) == SnoozeFor(0.5)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(Stop.RELEASE, SnoozeFor(5)), (Stop.CANCEL, Cancelled()), (Stop.LOST, Lost("the lease was lost"))],
)
async def test_a_snooze_in_being_stopped(run: Runs, reason: Stop, expected: Verdict) -> None:
    at_work = handling()

    async def snoozes(payload: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Snooze(5) from None

    task = asyncio.ensure_future(run(snoozes, on=at_work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    at_work.stop(reason)
    assert await task == expected


async def test_a_snooze_does_not_count_in_a_streak_of_failures(run: Runs) -> None:
    async def fails(payload: object) -> None:
        raise ValueError("bad")

    now = utc_now()
    failed = entry().retried(now, "bad", due=now, retry=RetryState(failures=2, backoff=1))
    slept = failed.started(now, "w").snoozed(now, now + timedelta(hours=1)).started(now, "w")
    assert slept.snoozed(now, now).retry == slept.retry  # however often
    verdict = await run(fails, of=slept.model_copy(update={"attempts": 1}))
    assert isinstance(verdict, RetryAfter)
    assert verdict.retry.failures == 3
    # The streak's age counts from its last retry, though the job slept since.
    long_ago = now - timedelta(hours=1)
    failed = entry().retried(long_ago, "bad", due=long_ago, retry=RetryState(failures=2, backoff=1))
    slept = failed.started(long_ago, "w").snoozed(long_ago, now).started(now, "w")
    verdict = await run(fails, of=slept.model_copy(update={"attempts": 1}))
    assert isinstance(verdict, RetryAfter)
    assert (verdict.retry.failures, verdict.retry.due) == (1, None)
