"""From when on a job waits."""

from datetime import UTC, datetime, timedelta

from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.telemetry.metrics import waited

STORED = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return STORED + timedelta(seconds=seconds)


def job(**fields: object) -> JobStatusResponse:
    return JobStatusResponse(job_id="high-1", status=Status.QUEUED, created_at=STORED, **fields)


def test_a_new_job_waits_since_it_was_stored() -> None:
    assert waited(job().started(after(3), "w"), after(3)) == 3


def test_a_retry_waits_since_it_was_due() -> None:
    failed = job().started(after(1), "w").retried(after(100), "no", due=after(110), retry=None)
    assert waited(failed.started(after(112), "w"), after(112)) == 2


def test_a_job_that_was_given_back_waits_since_then() -> None:
    released = job().started(after(1), "w").released(after(3600))
    assert waited(released.started(after(3602), "v"), after(3602)) == 2


def test_a_scheduled_job_waits_since_its_time() -> None:
    assert waited(job(scheduled_for=after(60)).started(after(61), "w"), after(61)) == 1


def test_clocks_that_differ_make_no_wait_below_nothing() -> None:
    assert waited(job().started(after(-5), "w"), after(-5)) == 0
    assert waited(JobStatusResponse(job_id="high-1", status=Status.PROCESSING), STORED) == 0
