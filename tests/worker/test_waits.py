"""A job of the parallel lane that waits for its next attempt begins it in time, whoever's clock said when."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from facts import state_of
from jsjobs import JobService
from jsjobs.model.job import JobStatusResponse, utc_now

WAIT = 2.4
"""Seconds that the job has to wait."""
AWAY = 1.6
"""Of these, seconds that pass before a worker is there."""


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


@pytest.mark.parametrize("days", [-365, 0, 365], ids=["a year behind", "the same", "a year ahead"])
@pytest.mark.parametrize("why", ["retry", "snooze"])
async def test_a_wait_counts_by_the_server_s_clock_alone(jobs: JobService, why: str, days: int) -> None:
    began: list[float] = []

    @jobs.handler("t")
    async def handler(payload: object) -> None:
        began.append(time.monotonic())

    job_id = await jobs.submit("t", priority="low")
    now = utc_now() + timedelta(days=days)
    due = now + timedelta(seconds=WAIT)
    first: JobStatusResponse = (await jobs.status(job_id)).started(now, "another")
    waiting = first.snoozed(now, due) if why == "snooze" else first.retried(now, "bad", due=due, retry=None)
    before = time.monotonic()
    await state_of(jobs).write(waiting, expected=0)
    await asyncio.sleep(AWAY)
    async with jobs.worker():
        # The first delivery comes too early, as one does from a consumer that was created again; it notes in the entry
        # by which subject the job can be woken now.
        await jobs.result(job_id, timeout=20)
    early = 0.1 if why == "snooze" else 0.6  # a retry may come back a little early
    assert WAIT - early <= began[0] - before < WAIT + AWAY * 0.75
