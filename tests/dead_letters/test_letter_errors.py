"""Every failure of a dead job is in its row, or counted there."""

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.postgres.dead_letters import DeadLetter

AT_ONCE = JobService.Retry(initial=0, max_retries=999)


async def died(jobs: JobService, max_attempts: int) -> DeadLetter:
    job_id = await jobs.submit("t", max_attempts=max_attempts)
    async with jobs.worker(), jobs.router():
        return await eventually(lambda: jobs.dlq.find(job_id), within=60)


async def test_failures_far_apart_among_snoozes_are_all_in_the_row(jobs: JobService) -> None:
    calls = 0

    @jobs.handler("t", retry=AT_ONCE)
    async def fails_at_times(payload: object) -> None:
        nonlocal calls
        calls += 1
        if calls in {16, 77, 138}:
            raise RuntimeError(f"call {calls}")
        raise JobService.Snooze(0.001)

    letter = await died(jobs, max_attempts=3)
    assert [(item["attempt"], item["error"]) for item in letter.error_history] == [
        (1, "RuntimeError: call 16"),
        (2, "RuntimeError: call 77"),
        (3, "RuntimeError: call 138"),
    ]
    assert (letter.attempts, letter.errors_dropped) == (3, 0)


@pytest.mark.parametrize("length", [200, 4096])
async def test_of_150_failures_the_row_has_each_or_counts_it(jobs: JobService, length: int) -> None:
    @jobs.handler("t", retry=AT_ONCE)
    async def fails(payload: object, ctx: JobService.Context) -> None:
        raise JobService.Error.from_processing(f"{ctx.attempt}: ".ljust(length, "e"))

    letter = await died(jobs, max_attempts=150)
    attempts = [item["attempt"] for item in letter.error_history]
    assert len(attempts) + letter.errors_dropped == letter.attempts == 150
    assert all(item["error"].startswith(f"Processing: {item['attempt']}: e") for item in letter.error_history)
    assert attempts == [*range(1, 11), *range(11 + letter.errors_dropped, 151)]
    assert (letter.errors_dropped > 0) is (length == 4096)
