"""Delayed jobs through the micro service: submitted, moved, run now, debounced."""

from datetime import UTC, datetime, timedelta

import pytest
from rpc_client import Asking

from facts import eventually
from jsjobs import JobService
from jsjobs.rpc import Rpc


@pytest.fixture
def jobs_with_note(jobs: JobService) -> JobService:
    @jobs.handler("note")
    async def note(payload: object) -> object:
        return payload

    return jobs


async def test_a_delayed_job_is_submitted_moved_and_run(jobs_with_note: JobService, rpc: Rpc, ask: Asking) -> None:
    async with jobs_with_note.worker():
        at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        later = await ask.done("submit", {"type": "note", "payload": 1, "at": at})
        assert later["job_id"].startswith("at-")
        status = await ask.done("status", {"job_id": later["job_id"]})
        assert (status["status"], datetime.fromisoformat(status["scheduled_for"])) == (
            "queued",
            datetime.fromisoformat(at),
        )
        moved = await ask.done("reschedule", {"job_id": later["job_id"], "delay": 7200})
        assert datetime.fromisoformat(moved["scheduled_for"]) > datetime.fromisoformat(at)
        assert (await ask.done("reschedule", {"job_id": later["job_id"], "now": True}))["job_id"] == later["job_id"]
        assert (await ask.done("result", {"job_id": later["job_id"], "timeout": 10}))["result"] == 1
        assert (await ask("reschedule", {"job_id": later["job_id"], "now": True})).outcome == (409, "Validation")
        soon = await ask.done("submit", {"type": "note", "payload": 2, "delay": 0.1})
        assert (await ask.done("result", {"job_id": soon["job_id"], "timeout": 10}))["result"] == 2


async def test_a_job_that_backs_off_is_run_now(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    @jobs.handler("fails", retry=JobService.Retry(initial=3600, max_backoff=7200))
    async def fails(payload: object, ctx: JobService.Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    async with jobs.worker():
        job_id = (await ask.done("submit", {"type": "fails", "payload": 1}))["job_id"]

        async def sleeps() -> bool:
            return (await jobs.status(job_id)).next_attempt_at is not None

        await eventually(sleeps)
        assert (await ask("reschedule", {"job_id": job_id, "delay": 1})).outcome == (409, "Validation")
        assert (await ask.done("reschedule", {"job_id": job_id, "now": True}))["status"] == "queued"
        assert (await ask.done("result", {"job_id": job_id, "timeout": 10}))["result"] == 2


async def test_of_debounced_ones_the_last_runs(jobs_with_note: JobService, rpc: Rpc, ask: Asking) -> None:
    request = {"type": "note", "delay": 0.5, "debounce_key": "save"}
    receipts = [await ask.done("submit", {**request, "payload": n}) for n in range(3)]
    assert len({receipt["job_id"] for receipt in receipts}) == 1
    async with jobs_with_note.worker():
        assert (await ask.done("result", {"job_id": receipts[0]["job_id"], "timeout": 10}))["result"] == 2


@pytest.mark.parametrize(
    ("endpoint", "request_body", "outcome"),
    [
        ("submit", {"type": "note", "delay": -1}, (400, "Validation")),
        ("submit", {"type": "note", "delay": "1"}, (400, "Validation")),
        ("submit", {"type": "note", "at": "2030-01-01T00:00:00"}, (400, "Validation")),
        ("submit", {"type": "note", "at": 1900000000}, (400, "Validation")),
        ("submit", {"type": "note", "at": "2030-01-01T00:00:00Z", "delay": 1}, (400, "Validation")),
        ("submit", {"type": "note", "debounce_key": "k"}, (400, "Validation")),
        ("reschedule", {"job_id": "at-1"}, (400, "Validation")),
        ("reschedule", {"job_id": "at-1", "now": True, "delay": 1}, (400, "Validation")),
        ("reschedule", {"job_id": "at-1", "now": "yes"}, (400, "Validation")),
        ("reschedule", {"job_id": "at-1", "delay": 1}, (404, "NotFound")),
        ("reschedule", {"job_id": "no id", "delay": 1}, (404, "NotFound")),
    ],
)
async def test_what_cannot_be_used_is_refused(
    jobs: JobService, rpc: Rpc, ask: Asking, endpoint: str, request_body: dict[str, object], outcome: tuple[int, str]
) -> None:
    assert (await ask(endpoint, request_body)).outcome == outcome
