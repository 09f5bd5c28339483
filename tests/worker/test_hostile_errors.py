"""What a handler raises is written down whatever its own methods do: the job is dead, or tried again."""

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
        (NoTextError(), "NoTextError: .its text cannot be had.", None),
        (ExitsAsTextError(), "ExitsAsTextError: .its text cannot be had.", None),
        (OwnTextError(), "OwnTextError: what went wrong", None),
        (UnequalError("unlike"), "UnequalError: unlike", None),
        (JobService.Error("Processing", NoTextError()), "cannot be had", None),
        (OwnReasonError("Processing", "own"), "own; deciding what follows raised SystemExit", None),
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
