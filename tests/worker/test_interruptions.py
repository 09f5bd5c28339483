"""A handler that is to end is made to: in time, again if it does not heed the first time, and for the right reason."""

import asyncio
from collections.abc import Callable

import pytest

from facts import state_of
from jsjobs import JobService
from jsjobs.handlers.context import JobContext
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.model.job import Priority
from jsjobs.worker.executor import Handling
from jsjobs.worker.run_state import Stop
from jsjobs.worker.timeouts import TimeLimits
from taps import begun_runs

LONG_ENOUGH = 4.0
"""Seconds after which a handler that nobody interrupts ends by itself, so that a test of it does."""


@pytest.mark.parametrize("why", ["cancelled", "too long", "worker stops"])
async def test_a_handler_that_swallows_its_cancellation_is_interrupted_again(service: Callable, why: str) -> None:
    interrupted, started = 0, asyncio.Event()
    async with service(grace=0.2) as jobs:

        @jobs.handler("stubborn")
        async def stubborn(_: object) -> None:
            nonlocal interrupted
            loop = asyncio.get_running_loop()
            started.set()
            until = loop.time() + LONG_ENOUGH
            while interrupted < 3 and (left := until - loop.time()) > 0:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    interrupted += 1

        async with jobs.worker():
            limit = 0.3 if why == "too long" else None
            job_id = await jobs.submit("stubborn", duration="long", timeout=limit, max_attempts=1)
            await started.wait()
            if why == "cancelled":
                assert (await jobs.cancel(job_id)).status == "cancelled"
            elif why == "too long":
                with pytest.raises(JobService.Error, match=r"longer than 0\.3 s"):
                    await jobs.result(job_id)
    assert interrupted == 3


async def test_a_short_job_ends_with_its_lease_at_the_latest(service: Callable) -> None:
    ended = asyncio.Event()
    async with service(ack_wait=2) as jobs:

        @jobs.handler("slow")
        async def slow(_: object) -> None:
            await asyncio.sleep(LONG_ENOUGH)
            ended.set()

        async with jobs.worker():
            job_id = await jobs.submit("slow", duration="short", max_attempts=1)
            [outcome] = await asyncio.gather(jobs.result(job_id), return_exceptions=True)
            lease = LeaseTime(jobs.config.ack_wait).lease
    assert isinstance(outcome, JobService.Error), "it outlived its lease"
    assert f"longer than {lease:g} s" in outcome.message
    assert not ended.is_set()


async def test_a_long_job_s_own_timeout_holds(service: Callable) -> None:
    async with service() as jobs:

        @jobs.handler("slow")
        async def slow(_: object) -> None:
            await asyncio.sleep(LONG_ENOUGH)

        async with jobs.worker():
            job_id = await jobs.submit("slow", duration="long", timeout=0.3, max_attempts=1)
            [outcome] = await asyncio.gather(jobs.result(job_id), return_exceptions=True)
    assert isinstance(outcome, JobService.Error)
    assert outcome.message == "Timeout: the handler ran longer than 0.3 s"


@pytest.mark.parametrize("earlier", [Stop.RELEASE, Stop.TIMEOUT, Stop.CANCEL])
async def test_a_lost_lease_overrules_an_earlier_stop_and_no_later_one_does(earlier: Stop) -> None:
    """What was asked before would be settled on a job that is somebody else's by now."""
    context = JobContext("normal-1", "t", Priority.NORMAL, shard=0, attempt=1, fence=7)
    handling = Handling(context, grace=10, limits=TimeLimits())
    handling.stop(earlier)
    assert (handling.asked, handling.why) == (earlier, str(earlier))
    for other in set(Stop) - {earlier, Stop.LOST}:
        handling.stop(other)
        assert handling.asked is earlier
    handling.stop(Stop.LOST, "another worker took the job")
    for other in (earlier, Stop.CANCEL):
        handling.stop(other)
        assert (handling.asked, handling.why) == (Stop.LOST, "another worker took the job")
    handling.stop(Stop.LOST, "the lease was not confirmed")
    assert handling.asked is Stop.LOST


async def test_a_job_that_is_lost_while_its_handler_is_stopped_is_not_settled(
    service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker took the job while its handler, asked to stop, still cleaned up: nothing of it is written."""
    started, may_end, begun = asyncio.Event(), asyncio.Event(), begun_runs(monkeypatch)
    async with service() as jobs:

        @jobs.handler("cleans-up")
        async def cleans_up(_: object) -> None:
            try:
                started.set()
                await asyncio.sleep(60)
            finally:
                await may_end.wait()

        async with jobs.worker() as worker:
            job_id = await jobs.submit("cleans-up", duration="long")
            await started.wait()
            worker.stop_now()
            [run] = begun
            run.lose("another worker took the job")
            assert not run.needs_renewal()
            revision = (await state_of(jobs).read(job_id)).revision
            may_end.set()
            await run.ended.wait()
            assert (await state_of(jobs).read(job_id)).revision == revision
