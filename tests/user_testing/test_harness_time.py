"""Delayed and periodic jobs in an application's tests."""

from datetime import UTC, datetime, timedelta

import pytest

from jsjobs.testing import Harness


async def test_delayed_jobs_are_listed_and_wait(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("remind")
        async def remind(payload: str) -> str:
            return payload

        at = datetime(2099, 1, 1, tzinfo=UTC)
        late = await jobs.submit("remind", "late", at=at, entity="ada", priority="high")
        await jobs.submit("remind", "soon", delay=timedelta(days=1))
        await jobs.submit("remind", "now")
        assert [(job.payload, job.scheduled_for) for job in await harness.queued()] == [("now", None)]
        soon, last = await harness.scheduled("remind")
        assert (soon.payload, last.job_id, last.entity, last.priority, last.scheduled_for) == (
            "soon",
            late,
            "ada",
            "high",
            at,
        )
        assert [status.result for status in await harness.run_all()] == ["now"]
        assert len(await harness.scheduled()) == 2
        assert await harness.scheduled("other") == []


async def test_with_scheduled_runs_them_and_what_they_submit_in_order(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("remind")
        async def remind(payload: int) -> int:
            if payload > 0:
                await jobs.submit("remind", payload - 1, delay=3600)
            return payload

        await jobs.submit("remind", -2, delay=7200)
        await jobs.submit("remind", 3, delay=60)
        ended = await harness.run_all(with_scheduled=True)
        assert [status.result for status in ended] == [3, -2, 2, 1, 0]
        assert await harness.scheduled() == []


async def test_a_dead_delayed_job_fails_the_test_and_one_that_never_ends_times_out(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("fail")
        async def fail(payload: str) -> None:
            raise RuntimeError(payload)

        @jobs.handler("again")
        async def again(payload: str) -> None:
            await jobs.submit("again", payload, delay=60)

        await jobs.submit("fail", "no", delay=60)
        with pytest.raises(RuntimeError, match="no"):
            await harness.run_all(with_scheduled=True)
        await jobs.submit("again", "for ever", delay=60)
        with pytest.raises(TimeoutError, match=r"had not ended after 0\.5 s"):
            await harness.run_all(with_scheduled=True, timeout=0.5)


async def test_a_cancelled_or_debounced_job_is_what_it_is(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("save")
        async def save(payload: int) -> int:
            return payload

        for number in range(3):
            await jobs.submit("save", number, delay=60, debounce_key="doc")
        await jobs.cancel(await jobs.submit("save", 9, delay=60))
        assert [job.payload for job in await harness.scheduled()] == [2]
        assert [status.result for status in await harness.run_all(with_scheduled=True)] == [2]


async def test_what_code_declares_submits_nothing(harness: Harness) -> None:
    async with harness.service() as jobs:
        ran = []

        @jobs.handler("beat")
        @jobs.periodic(every=1)
        async def beat(payload: object) -> None:
            ran.append(payload)

        await jobs.submit("beat", "by hand")
        await harness.run_all()
        assert await jobs.schedules.list() == []
    assert ran == ["by hand"]
