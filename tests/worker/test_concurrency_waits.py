"""What a job that waits, fails, is cancelled or paused means for the bound of its worker."""

import asyncio
import time
from collections.abc import Callable

import pytest
from bounds import Journal, fill, fill_each_shard, sleeper, watch_deliveries

from deliveries import set_max_deliver
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.jobs.delivery import Delivery
from process_handlers import nap
from process_runs import processes


async def test_a_snoozing_job_occupies_no_slot_and_gets_one_again(service: Callable) -> None:
    journal, began = Journal(), []

    async def snoozes(payload: int, ctx: JobService.Context) -> str:
        began.append(time.monotonic())
        if len(began) == 1:
            raise JobService.Snooze(0.5)
        journal.begin(payload, ctx)
        await asyncio.sleep(0.05)
        journal.end()
        return "done"

    async with service(concurrency=1) as jobs:
        jobs.register_handler("snoozes", snoozes)
        jobs.register_handler("t", sleeper(journal, 0.05))
        snoozing = await jobs.submit("snoozes", -1, priority="low")
        async with jobs.worker():
            await eventually(lambda: began)
            ids = await fill(jobs, "t", 12, entity="e")
            assert await jobs.result(snoozing, timeout=20) == "done"
            during = [at for _, payload, at in journal.begun if payload >= 0 and at < began[0] + 0.45]
            assert len(during) >= 4
            for job_id in ids:
                await jobs.result(job_id, timeout=20)
    assert journal.most == 1
    assert began[1] - began[0] >= 0.5


async def test_a_snooze_that_is_over_while_all_slots_are_taken_is_another_s(service: Callable) -> None:
    began = []

    async def snoozes(payload: int) -> str:
        began.append(payload)
        if len(began) == 1:
            raise JobService.Snooze(0.7)
        return "done"

    async with service(concurrency=1) as busy, service() as other:
        journal = Journal()
        for each in (busy, other):
            each.register_handler("snoozes", snoozes)
            each.register_handler("long", sleeper(journal, 60))
        snoozing = await busy.submit("snoozes", 1, priority="low", entity="e")
        async with busy.worker() as first:
            await eventually(lambda: began and first.running == 1)
            long = await busy.submit("long", 1, priority="high", duration="long")
            await eventually(lambda: journal.running == 1)
            async with other.worker():
                assert await other.result(snoozing, timeout=5) == "done"
                assert journal.running == 1
                await other.cancel(long)
        status = await busy.status(snoozing)
    assert status.attempts == 1, "no attempt is lost by it"
    assert [item.status for item in status.history] == ["processing", "queued", "processing", "complete"]


async def test_a_lost_worker_s_job_is_waited_for_without_a_slot(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as lost, service(concurrency=1) as jobs:
        for each in (lost, jobs):
            each.register_handler("t", sleeper(journal, 0.05))
            each.register_handler("once", once(journal))
        taken = await lost.submit("once", -7, priority="low", max_attempts=3)
        async with lost.worker():
            await eventually(lambda: journal.running == 1)
            await lost.connection.close()  # as if it had died
            async with jobs.worker():
                ids = await fill(jobs, "t", 4, entity="e")
                begin = time.monotonic()
                for job_id in (job for job in ids if not job.startswith("low")):
                    await jobs.result(job_id, timeout=20)
                assert time.monotonic() - begin < 1.9, "they did not wait for ack_wait"
                assert await jobs.result(taken, timeout=20) == "second"
                for job_id in ids:
                    await jobs.result(job_id, timeout=20)


def once(journal: Journal) -> Callable:
    async def handler(payload: int, ctx: JobService.Context) -> str:
        if ctx.attempt == 1:
            journal.running += 1
            try:
                await asyncio.sleep(60)
            finally:
                journal.running -= 1
        return "second"

    return handler


async def test_a_retry_waits_without_a_slot(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as jobs:

        @jobs.handler("flaky", retry=JobService.Retry(initial=1, jitter=(1, 1)))
        async def flaky(payload: int, ctx: JobService.Context) -> int:
            if ctx.attempt == 1:
                raise ValueError("no")
            return ctx.attempt

        jobs.register_handler("t", sleeper(journal, 0.02))
        job_id = await jobs.submit("flaky", 1, priority="low")
        async with jobs.worker():
            await eventually(lambda: has_failed(jobs, job_id))
            begin = time.monotonic()
            for each in await fill(jobs, "t", 4, entity="e"):
                if not each.startswith("low"):
                    await jobs.result(each, timeout=5)
            assert time.monotonic() - begin < 0.9
            assert await jobs.result(job_id, timeout=10) == 2
    assert journal.most == 1


async def has_failed(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).last_error is not None


async def test_handlers_in_processes_are_bounded_by_both(service: Callable) -> None:
    async with service(concurrency=2, processes=5) as jobs:
        jobs.register_handler("nap", nap, run_in="process")
        ids = await fill(jobs, "nap", 2, entity="e")
        most = 0
        async with jobs.worker():
            for job_id in ids:
                asking = asyncio.ensure_future(jobs.result(job_id, timeout=60))
                while not asking.done():
                    most = max(most, len(processes()))
                    await asyncio.wait({asking}, timeout=0.01)
                await asking
    assert most == 2


async def test_a_cancelled_job_leaves_its_slot(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as jobs:
        jobs.register_handler("long", sleeper(journal, 60))
        jobs.register_handler("t", sleeper(journal, 0))
        async with jobs.worker() as worker:
            long = await jobs.submit("long", 0, priority="low", duration="long")
            await eventually(lambda: journal.running == 1)
            behind = [await jobs.submit("t", n, priority="high", entity="e") for n in range(3)]
            gone = await jobs.submit("t", 9, priority="high", entity="e")
            parked = await jobs.submit("t", 9, priority="critical", entity="e")
            assert (await jobs.cancel(gone)).status == "cancelled"
            assert (await jobs.cancel(parked)).status == "cancelled"
            assert (await jobs.cancel(long)).status == "cancelled"
            for job_id in behind:
                await jobs.result(job_id, timeout=10)
            await eventually(lambda: worker.running == 0)
    assert [payload for _, payload, _ in journal.begun] == [0, 0, 1, 2]


async def test_a_pause_and_a_resume_at_the_bound(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as jobs:
        jobs.register_handler("t", sleeper(journal, 0.03))
        ids = await fill_each_shard(jobs, "t", 6)
        async with jobs.worker() as worker:
            await eventually(lambda: len(journal.begun) > 5)
            await jobs.pause("critical")
            await eventually(lambda: worker.running == 0 or not at_work(journal, "critical"))
            before = journal.shards
            waiting = [job for job in ids if not job.startswith("critical")]
            for job_id in waiting:
                await jobs.result(job_id, timeout=30)
            paused = sum(n for name, n in (journal.shards - before).items() if name.startswith("critical"))
            assert paused == 0
            assert worker.ready
            await jobs.resume("critical")
            for job_id in ids:
                await jobs.result(job_id, timeout=30)
    assert journal.most == 1


def at_work(journal: Journal, priority: str) -> bool:
    return journal.running > 0 and journal.begun[-1][0].startswith(priority)


async def test_what_waits_for_a_slot_at_a_stop_is_another_s_at_once(service: Callable) -> None:
    journal, done = Journal(), Journal()
    async with service(concurrency=1, grace=0.2) as stopping, service() as other:
        stopping.register_handler("t", sleeper(journal, 60))
        other.register_handler("t", sleeper(done, 0))
        worker = stopping.worker()
        await worker.start()
        ids = await fill(stopping, "t", 2, duration="long")
        await eventually(lambda: journal.running == 1)
        async with other.worker():
            begin = time.monotonic()
            await worker.stop()
            for job_id in ids:
                await other.result(job_id, timeout=10)
            assert time.monotonic() - begin < 1.9
    assert len(done.begun) == len(ids)


async def test_no_delivery_is_wasted_where_there_are_few(service: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `max_deliver` 2 nothing may be given back for a slot: it waits for one, and is kept alive."""
    journal, counts = Journal(), watch_deliveries(monkeypatch)
    naks = []
    nak = Delivery.nak
    monkeypatch.setattr(Delivery, "nak", lambda self, delay=0: (naks.append(self), nak(self, delay)))
    async with service(concurrency=1) as jobs:
        await set_max_deliver(jobs.config, 2)
        jobs.register_handler("t", sleeper(journal, 1.2))
        ids = await fill(jobs, "t", 1)
        async with jobs.worker():
            for job_id in ids:
                await jobs.result(job_id, timeout=30)
    assert (journal.most, naks, set(counts.values())) == (1, [], {1})


async def test_a_job_that_waits_for_a_slot_does_not_start_in_a_pause(
    service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, kept, renew = Journal(), [], Delivery.renew

    async def noted(self: Delivery, timeout: float) -> None:
        await renew(self, timeout)
        kept.append(self.priority)

    monkeypatch.setattr(Delivery, "renew", noted)
    async with service(concurrency=1) as jobs:
        await set_max_deliver(jobs.config, 2)
        jobs.register_handler("long", sleeper(journal, 60))
        jobs.register_handler("t", sleeper(journal, 0))
        async with jobs.worker() as worker:
            long = await jobs.submit("long", 0, priority="low", duration="long")
            await eventually(lambda: journal.running == 1)
            waiting = await jobs.submit("t", 1, priority="high", entity="e")
            await eventually(lambda: "high" in kept)
            paused = await jobs.pause("high")
            assert paused.running == ()
            await jobs.cancel(long)
            await eventually(lambda: worker.running == 0)
            assert [payload for _, payload, _ in journal.begun] == [0]
            assert (await jobs.status(waiting)).status == "queued"
            await jobs.resume("high")
            await jobs.result(waiting, timeout=10)
            assert (await jobs.status(waiting)).attempts == 1
