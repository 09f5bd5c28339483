"""What a handler raises is written down whatever its own methods do: the job is dead, or tried again."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from jsjobs import JobService


class Told(str):
    """A text whose methods fail."""

    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def encode(self, *_: object) -> bytes:
        raise RuntimeError("no bytes")


class NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class ExitsAsTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class OwnTextError(Exception):
    def __str__(self) -> str:
        return Told("what went wrong")


class UnequalError(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparing")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class OwnReasonError(JobService.Error):
    @property
    def is_terminal(self) -> bool:
        raise SystemExit(1)


class OwnRetry(JobService.Retry):
    def after_failure(self, *_: object, **__: object) -> None:
        raise SystemExit(1)


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    """With an `ack_wait` that nobody would wait for."""
    return settings_of(ack_wait=30)


@pytest.mark.parametrize(
    ("error", "text", "retry"),
    [
        (NoTextError(), "NoTextError: .its text cannot be read.", None),
        (ExitsAsTextError(), "ExitsAsTextError: .its text cannot be read.", None),
        (OwnTextError(), "OwnTextError: what went wrong", None),
        (UnequalError("unlike"), "UnequalError: unlike", None),
        (JobService.Error("Processing", NoTextError()), "cannot be read", None),
        (OwnReasonError("Processing", "own"), "own; deciding on a retry raised SystemExit", None),
        (ValueError("plain"), "ValueError: plain", OwnRetry()),
    ],
    ids=["no text", "exits", "own text", "unequal", "no message", "own reason", "own retry"],
)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_job_ends_in_any_error(
    jobs: JobService, error: Exception, text: str, retry: JobService.Retry | None, kind: str
) -> None:
    async def raises(payload: object) -> None:
        raise error

    def raises_in_thread(payload: object) -> None:
        raise error

    jobs.register_handler("raises", raises if kind == "async" else raises_in_thread, retry=retry)
    async with jobs.worker():
        job_id = await jobs.submit("raises", 1, max_attempts=2, duration="long")
        with pytest.raises(JobService.Error, match=text):
            await jobs.result(job_id, timeout=10)
        status = await jobs.status(job_id)
        assert status.attempts == 2
        assert all(item.error for item in status.history if item.status in {"queued", "failed"})


HUGE = 100_000_000


def raises_text(size: int) -> None:
    raise ValueError("x" * size)


def raises_reason(size: int) -> None:
    raise JobService.Error("Processing", "x" * size)


def raises_from(size: int) -> None:
    raise ValueError("short") from KeyError("x" * size)


def raises_group(size: int) -> None:
    raise ExceptionGroup("of two", [ValueError("x" * (size // 10)), ValueError(["x"] * (size // 10))])


def raises_noted(size: int) -> None:
    error = ValueError("short")
    error.add_note("x" * size)
    raise error


@pytest.mark.parametrize("run_in", ["loop", "thread", "process"])
@pytest.mark.parametrize("raises", [raises_text, raises_reason, raises_from, raises_group, raises_noted])
async def test_an_error_of_any_size_holds_up_nobody(
    jobs: JobService, raises: Callable[[int], None], run_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def in_loop(size: int) -> None:
        raises(size)

    if run_in == "loop":
        jobs.register_handler("raises", in_loop)
    else:
        jobs.register_handler("raises", raises, run_in=run_in)

    @jobs.handler("other")
    async def other(payload: object) -> None: ...

    async with jobs.worker():
        await jobs.result(await jobs.submit("other", 1), timeout=10)
        loop, latest = asyncio.get_running_loop(), 0.0

        async def watch() -> None:
            nonlocal latest
            while True:
                began = loop.time()
                await asyncio.sleep(0.01)
                latest = max(latest, loop.time() - began)

        watching = asyncio.ensure_future(watch())
        job_id = await jobs.submit("raises", HUGE, max_attempts=1)
        with pytest.raises(JobService.Error) as caught:
            await jobs.result(job_id, timeout=60)
        watching.cancel()
        status = await jobs.status(job_id)
    assert len(str(caught.value)) < 5_000
    assert len(status.last_error or "") < 5_000
    told = "".join(logging.Formatter("%(message)s").format(record) for record in caplog.records)
    assert f"job {job_id} (raises): attempt 1 of 1 failed" in told
    assert len(told) < 200_000
    assert latest < 4  # making the texts themselves takes some of it


async def test_a_result_that_is_too_large_is_logged(jobs: JobService, caplog: pytest.LogCaptureFixture) -> None:
    @jobs.handler("huge")
    async def huge(size: int) -> str:
        return "x" * size

    async with jobs.worker():
        job_id = await jobs.submit("huge", 2_000_000)
        with pytest.raises(JobService.Error, match="cannot be kept"):
            await jobs.result(job_id, timeout=10)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith(
        f"job {job_id} (huge): attempt 1 of 3 failed, the job is dead: the result of "
    )
