"""Running all jobs of a harness to their end."""

import asyncio
import re
import threading
import time

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.testing import Harness

HOURS = JobService.Retry(initial=7200, max_backoff=1e6)


async def test_jobs_and_what_they_submit_end_and_are_returned_in_that_order(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("parent")
        async def parent(number: int) -> int:
            if number:
                await jobs.submit("parent", number - 1, priority="critical" if number % 2 else "low")
            return number

        first = await jobs.submit("parent", 5)
        ended = await harness.run_all()
        assert [status.result for status in ended] == [5, 4, 3, 2, 1, 0]
        assert ended[0].job_id == first
        assert {status.status for status in ended} == {"complete"}
        assert ended[0] == await jobs.status(first)
        assert await harness.run_all() == []


async def test_replays_on_their_way_to_a_queue_are_waited_for(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("echo")
        async def echo(payload: int) -> int:
            return payload

        schedules = Schedules(jobs.connection, Names(jobs.config.namespace))
        for number in range(8):
            # What a replay comes to, of a letter without a database.
            priority, job_id = ("low", "high", "normal", "critical")[number % 4], f"replay-1-{number}"
            subject = f"{jobs.config.namespace}.{priority}.e.echo".encode()
            await schedules.hand_over(subject, {"Jsjobs-Id": job_id}, b"%d" % number)
            assert [status.job_id for status in await harness.run_all()] == [job_id]


async def test_a_snooze_is_over_at_once_and_written_as_in_production(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("polls")
        async def polls(payload: list[int], ctx: JobService.Context) -> int:
            seen.append(ctx.attempt)
            if len(seen) < 5:
                raise JobService.Snooze(3600)
            return len(seen)

        seen: list[int] = []
        await jobs.submit("polls", [[]], max_attempts=1)
        [ended] = await harness.run_all()
    assert (ended.result, ended.attempts, seen) == (5, 1, [1] * 5)
    assert [item.status for item in ended.history] == [*["processing", "queued"] * 4, "processing", "complete"]


async def test_a_job_that_snoozes_for_ever_does_not_end(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("polls")
        async def polls(payload: object) -> None:
            raise JobService.Snooze(60)

        job_id = await jobs.submit("polls")
        what = f"{job_id} \\(polls\\) (queued, its handler snoozed|processing, attempt 1)$"
        with pytest.raises(TimeoutError, match=what):
            await harness.run_all(timeout=0.5)
        status = await jobs.status(job_id)
    assert (status.status, status.attempts) == ("queued", 0)


async def test_an_expired_job_fails_the_test(harness: Harness) -> None:
    async with harness.service() as jobs:
        jobs.register_handler("t", lambda _: None)
        await jobs.submit("t", expires=0.01)
        [queued] = await harness.queued()
        assert queued.expires is not None
        await asyncio.sleep(0.05)  # the time that this is about
        with pytest.raises(JobService.Error, match="the job expired"):
            await harness.run_all()


async def test_a_handler_may_wait_for_a_job_of_another_priority(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("adds.up")
        async def adds_up(numbers: list[int]) -> int:
            ids = await jobs.submit("doubles", numbers, priority="high")
            return sum([await jobs.result(job_id) for job_id in ids])

        @jobs.handler("doubles")
        def doubles(number: int) -> int:
            return number * 2

        await jobs.submit("adds.up", [[1, 2, 3]])
        ended = await harness.run_all()
    assert [status.result for status in ended] == [2, 4, 6, 12]


async def test_two_hundred_jobs_of_all_priorities_end_once_each(harness: Harness) -> None:
    ran: list[int] = []
    async with harness.service() as jobs:

        @jobs.handler("count")
        def count(number: int) -> int:
            ran.append(number)
            return number

        ids = []
        for start, priority in enumerate(("critical", "high", "normal", "low")):
            ids += await jobs.submit("count", list(range(start * 50, start * 50 + 50)), priority=priority)
        ended = await harness.run_all()
    assert sorted(ran) == list(range(200))
    assert len(ended) == 200
    assert {status.job_id for status in ended} == set(ids)
    for start in range(0, 200, 50):  # those of one priority in the order submitted
        assert [number for number in ran if start <= number < start + 50] == list(range(start, start + 50))


async def test_jobs_of_both_lanes_run_one_after_the_other_in_the_order_submitted(harness: Harness) -> None:
    begun: list[tuple[int, int]] = []
    running = most = 0
    async with harness.service() as jobs:

        @jobs.handler("count")
        async def count(number: int, context: JobService.Context) -> None:
            nonlocal running, most
            begun.append((number, context.attempt))
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)  # long enough for another to begin beside it
            running -= 1
            if number % 7 == 0 and context.attempt == 1:
                raise ValueError("once")

        for number in range(40):
            await jobs.submit("count", number, entity=("e", None, None, "f", None)[number % 5])
        ended = await harness.run_all()
    assert len(ended) == 40
    assert most == 1
    assert begun == [(number, attempt) for number in range(40) for attempt in ((1, 2) if number % 7 == 0 else (1,))]


async def test_with_a_concurrency_jobs_run_beside_each_other_and_may_wait_for_each_other(
    nats_server: NatsServer,
) -> None:
    async with Harness(nats_url=nats_server.url, concurrency=5) as harness, harness.service() as jobs:

        @jobs.handler("adds.up")
        async def adds_up(numbers: list[int]) -> int:
            ids = await jobs.submit("doubles", numbers)
            return sum([await jobs.result(job_id) for job_id in ids])

        @jobs.handler("doubles")
        async def doubles(number: int) -> int:
            await all_of_them.wait()  # they run at once, beside the one that waits for them
            return number * 2

        all_of_them = asyncio.Barrier(4)
        await jobs.submit("adds.up", [[1, 2, 3, 4]])
        ended = await harness.run_all()
    assert ended[-1].result == 20


async def test_retries_of_hours_come_at_once_and_are_recorded_as_ever(harness: Harness) -> None:
    started = time.monotonic()
    async with harness.service() as jobs:

        @jobs.handler("flaky", retry=HOURS)
        async def flaky(_payload: object, context: JobService.Context) -> int:
            if context.attempt < 4:
                raise ValueError(f"attempt {context.attempt}")
            return context.attempt

        await jobs.submit("flaky", max_attempts=5)
        [status] = await harness.run_all()
    assert time.monotonic() - started < 60
    assert (status.status, status.attempts, status.result) == ("complete", 4, 4)
    assert [(item.status, item.attempt, item.error) for item in status.history] == [
        ("processing", 1, None),
        ("queued", 1, "ValueError: attempt 1"),
        ("processing", 2, None),
        ("queued", 2, "ValueError: attempt 2"),
        ("processing", 3, None),
        ("queued", 3, "ValueError: attempt 3"),
        ("processing", 4, None),
        ("complete", 4, None),
    ]
    assert status.retry.failures == 3
    assert status.retry.backoff > (7200 + 14400 + 28800) * 0.8  # what production would have waited


@pytest.mark.parametrize(
    ("policy", "options", "attempts"),
    [
        (JobService.Retry(initial=3600, max_backoff=1e6, max_retries=2), {"max_attempts": 50}, 3),
        (JobService.Retry(initial=3600, factor=1, jitter=(1, 1), max_backoff=5400), {"max_attempts": 50}, 3),
        (JobService.Retry(initial=3600, max_backoff=1e6, max_retries=2, reset_after=0), {"max_attempts": 9}, 9),
        (HOURS, {"max_attempts": 2}, 2),
        (HOURS, {}, 6),
    ],
)
async def test_a_job_is_given_up_when_production_would(
    harness: Harness, policy: JobService.Retry, options: dict[str, int], attempts: int
) -> None:
    async with harness.service() as jobs:

        @jobs.handler("dies", retry=policy)
        async def dies(_payload: object) -> None:
            raise ValueError("no")

        await jobs.submit("dies", **options)
        [status] = await harness.run_all(raise_failures=False)
    assert (status.status, status.attempts, status.error_reason) == ("failed", attempts, "MaxRetries")
    assert [item.error for item in status.history if item.error] == ["ValueError: no"] * attempts


async def test_a_dead_job_raises_what_its_handler_raised_once_all_have_ended(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("looks.up")
        def looks_up(key: str) -> int:
            return {"known": 1}[key]

        ids = [await jobs.submit("looks.up", key, max_attempts=1) for key in ("one", "two", "known")]
        with pytest.raises(KeyError, match="one") as raised:
            await harness.run_all()
        assert [re.findall(r"normal-parallel-\d+", note) for note in raised.value.__notes__] == [[ids[0]], [ids[1]]]
        assert (await jobs.status(ids[2])).status == "complete"
        trace = raised.tb
        frames = []
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert frames[-1] == "looks_up"
        assert not {"execute", "run", "_call"} & set(frames)


async def test_failures_without_a_handler_at_fault_are_job_errors(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("takes.a.number")
        async def number(_payload: int) -> None: ...

        @jobs.handler("too.slow")
        async def slow(_payload: object) -> None:
            await asyncio.sleep(60)

        async with harness.service() as publisher:  # knows no handlers, so it checks no payload
            for job_type, reason in (("takes.a.number", "Validation"), ("no.such", "HandlerMissing")):
                await publisher.submit(job_type, "x")
                with pytest.raises(JobService.Error) as raised:
                    await harness.run_all(jobs)
                assert raised.value.reason == reason
            await publisher.submit("too.slow", max_attempts=1, timeout=0.05)
            [late] = await harness.run_all(jobs, raise_failures=False)
    assert late.last_error == "Timeout: the handler ran longer than 0.05 s"


async def test_cancelled_jobs_are_no_failures(harness: Harness) -> None:
    async with harness.service() as jobs:

        @jobs.handler("cancelled")
        async def cancelled(_payload: object) -> None:
            raise AssertionError("runs")

        await jobs.cancel(await jobs.submit("cancelled"))
        assert await harness.run_all() == []  # it had ended before

        @jobs.handler("submits.and.cancels")
        async def submits(_payload: object) -> None:
            # Of this job's own priority, so it waits.
            await jobs.cancel(await jobs.submit("cancelled"))

        await jobs.submit("submits.and.cancels")
        assert [status.status for status in await harness.run_all()] == ["cancelled", "complete"]


async def test_jobs_that_do_not_end_are_named(harness: Harness) -> None:
    interrupted = asyncio.Event()
    async with harness.service() as jobs:

        @jobs.handler("for.ever")
        async def for_ever(_payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                interrupted.set()

        running = await jobs.submit("for.ever")
        waiting = await jobs.submit("for.ever")
        with pytest.raises(TimeoutError) as raised:
            await harness.run_all(timeout=0.5)
        assert str(raised.value) == (
            f"2 jobs had not ended after 0.5 s: {running} (for.ever) processing, attempt 1; {waiting} (for.ever) queued"
        )
        assert interrupted.is_set()
        assert [job.job_id for job in await harness.queued()] == [running, waiting]
        assert (await jobs.status(running)).attempts == 0  # given back
        await jobs.submit("for.ever", [None] * 40)
        with pytest.raises(TimeoutError, match=r"^42 jobs .*; and 22 more$"):
            await harness.run_all(timeout=0.5)


async def test_a_thread_that_does_not_end_is_left_behind(harness: Harness) -> None:
    release = threading.Event()
    async with harness.service() as jobs:

        @jobs.handler("stuck")
        def stuck(_payload: object) -> None:
            release.wait(60)

        await jobs.submit("stuck")
        try:
            with pytest.raises(
                TimeoutError, match=r"1 job had not ended after 0.5 s: normal-parallel-\d+ \(stuck\) processing"
            ):
                await harness.run_all(timeout=0.5)
        finally:
            release.set()


async def test_a_handler_may_raise_anything(harness: Harness) -> None:
    class Own(BaseException):
        pass

    async with harness.service() as jobs:

        @jobs.handler("outcome")
        async def fails(_payload: object) -> None:
            pytest.fail("not to be called")  # no Exception: pytest's own

        @jobs.handler("own")
        def own(_payload: object) -> None:
            raise Own

        await jobs.submit("outcome")
        with pytest.raises(pytest.fail.Exception, match="not to be called"):
            await harness.run_all()
        await jobs.submit("own")
        with pytest.raises(Own):
            await harness.run_all()


async def test_a_dead_job_is_told_of_once_though_its_letter_arrives_later(
    nats_server: NatsServer, database_url: str
) -> None:
    async with Harness(nats_url=nats_server.url, database_url=database_url) as harness, harness.service() as jobs:

        @jobs.handler("dies")
        async def dies(_payload: object) -> None:
            raise ValueError("no")

        dead = await jobs.submit("dies")
        [status] = await harness.run_all(raise_failures=False)
        assert status.job_id == dead
        async with jobs.router():
            await eventually(jobs.dlq.list)
        assert await harness.run_all() == []
