"""Everything that a job can do, in the parallel lane, on real servers."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from lane_runs import Journal, left_in, results, submit
from nats.aio.client import Client

import process_handlers
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.protocol.headers import ENTITY
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology import consumers
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.postgres.errors import LetterNotFound


async def statuses(jobs: JobService, job_id: str) -> list[str]:
    return [item.status.value for item in (await jobs.status(job_id)).history]


async def test_a_job_knows_its_lane(jobs: JobService) -> None:
    seen = {}

    @jobs.handler("look")
    async def look(payload: str, ctx: JobService.Context) -> None:
        seen[payload] = (ctx.job_id, ctx.lane, ctx.shard, ctx.entity, ctx.tenant_id, jobs.current_context().shard_id)

    with jobs.request_context(tenant_id="acme"):
        parallel, ordered = await jobs.submit("look", "p"), await jobs.submit("look", "o", entity="e")
    async with jobs.worker():
        await results(jobs, [parallel, ordered])
    assert seen["p"] == (parallel, "parallel", None, None, "acme", None)
    assert parallel.startswith("normal-parallel-")
    assert seen["o"][1] == "ordered"
    assert seen["o"][2] in {0, 1}
    assert seen["o"][3:5] == ("e", "acme")
    assert (await jobs.status(parallel)).entity is None
    assert await left_in(jobs) == 0


async def test_a_process_knows_its_lane(jobs: JobService) -> None:
    jobs.register_handler("tell", process_handlers.lane, run_in="process")
    ids = [await jobs.submit("tell", 0), await jobs.submit("tell", 0, entity="e")]
    async with jobs.worker():
        parallel, ordered = await results(jobs, ids)
    assert parallel == ["parallel", None, None]
    assert ordered[0] == "ordered"
    assert ordered[2] == "e"


async def test_an_entity_in_the_lane_is_refused_and_the_worker_goes_on(
    jobs: JobService, plain: Client, namespace: str
) -> None:
    jobs.register_handler("t", lambda payload: payload)
    subject = f"{namespace}.parallel.high.-.t"
    ack = await plain.jetstream().publish(subject, b"1", headers={ENTITY: "customer-7"})
    async with jobs.worker(), jobs.router():
        job_id = f"high-parallel-{ack.seq}"
        with pytest.raises(JobService.Error, match="Jsjobs-Entity") as caught:
            await jobs.result(job_id)
        assert caught.value.reason == "Validation"
        letter = await eventually(lambda: jobs.dlq.find(job_id))
        assert (letter.error_reason, letter.payload) == ("Validation", b"1")
        assert await jobs.result(await jobs.submit("t", 2)) == 2


async def test_any_client_may_publish(jobs: JobService, plain: Client, namespace: str) -> None:
    @jobs.handler("mail.send")
    async def send(payload: dict[str, Any], ctx: JobService.Context) -> list[Any]:
        return [payload["to"], ctx.tenant_id, ctx.lane]

    ack = await plain.jetstream().publish(
        f"{namespace}.parallel.low.acme.mail.send", json.dumps({"to": "x"}).encode(), headers={"Jsjobs-Tenant": "acme"}
    )
    async with jobs.worker():
        assert await jobs.result(f"low-parallel-{ack.seq}") == ["x", "acme", "parallel"]


async def test_a_failed_job_is_tried_again_and_holds_no_slot(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as jobs:

        @jobs.handler("flaky", retry=JobService.Retry(initial=1, jitter=(1, 1)))
        async def flaky(payload: int, ctx: JobService.Context) -> int:
            if ctx.attempt == 1:
                raise ValueError("no")
            return ctx.attempt

        jobs.register_handler("t", journal.sleeper(0.01))
        async with jobs.worker():
            job_id = await jobs.submit("flaky", 1)
            await eventually(lambda: failed(jobs, job_id))
            begin = time.monotonic()
            await results(jobs, await submit(jobs, "t", 20))
            assert time.monotonic() - begin < 0.95
            assert await jobs.result(job_id) == 2
        status = await jobs.status(job_id)
        assert await statuses(jobs, job_id) == ["processing", "queued", "processing", "complete"]
        assert (status.attempts, status.wake, status.next_attempt_at) == (2, None, None)
        assert status.history[2].timestamp - status.history[1].timestamp >= timedelta(seconds=0.9)


async def failed(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).last_error is not None


async def test_a_tenth_that_fails_once_costs_little(service: Callable) -> None:
    async with service(concurrency=100) as jobs:

        @jobs.handler("t")
        async def handler(payload: int, ctx: JobService.Context) -> None:
            if payload % 10 == 0 and ctx.attempt == 1:
                raise ValueError("once")

        ids = await submit(jobs, "t", 2000)
        async with jobs.worker():
            await results(jobs, ids)
        assert [(await jobs.status(job_id)).attempts for job_id in ids[:20]] == [2, *[1] * 9] * 2


async def test_a_job_that_waits_an_hour_for_its_retry_delays_nobody(service: Callable) -> None:
    async with service(concurrency=2) as jobs:

        @jobs.handler("fails", retry=JobService.Retry(initial=3600, jitter=(1, 1), max_backoff=7200))
        async def fails(payload: int) -> None:
            raise ValueError("no")

        @jobs.handler("t")
        async def handler(payload: int) -> int:
            return payload

        async with jobs.worker() as worker:
            sleeping = [await jobs.submit("fails", n) for n in range(10)]
            await eventually(lambda: all_failed(jobs, sleeping))
            await eventually(lambda: worker.running == 0)
            begin = time.monotonic()
            assert await results(jobs, await submit(jobs, "t", 50)) == list(range(50))
            assert time.monotonic() - begin < 5
            assert await left_in(jobs) == 10


async def all_failed(jobs: JobService, ids: list[str]) -> bool:
    return all([await failed(jobs, job_id) for job_id in ids])


async def test_a_snoozing_job_holds_no_slot_and_burns_no_attempt(service: Callable) -> None:
    began = []
    async with service(concurrency=1) as jobs:

        @jobs.handler("snoozes")
        async def snoozes(payload: int, ctx: JobService.Context) -> int:
            began.append(time.monotonic())
            if len(began) < 4:
                raise JobService.Snooze(0.7)
            return ctx.attempt

        jobs.register_handler("t", lambda payload: payload)
        async with jobs.worker() as worker:
            job_id = await jobs.submit("snoozes", 1)
            await eventually(lambda: snoozes_now(jobs, job_id))
            await eventually(lambda: worker.running == 0)
            await results(jobs, await submit(jobs, "t", 20))
            assert len(began) == 1, "others ran while it slept"
            assert await jobs.result(job_id) == 1
    assert all(later - earlier >= 0.65 for earlier, later in itertools.pairwise(began))


async def snoozes_now(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).snoozed_until is not None


async def test_a_snoozing_job_survives_its_worker(service: Callable) -> None:
    began = []

    async def snoozes(payload: int) -> None:
        began.append(time.monotonic())
        if len(began) == 1:
            raise JobService.Snooze(1.5)

    async with service() as one, service() as two:
        one.register_handler("snoozes", snoozes)
        two.register_handler("snoozes", snoozes)
        async with one.worker():
            job_id = await one.submit("snoozes", 1)
            await eventually(lambda: snoozes_now(one, job_id))
        async with two.worker():
            await two.result(job_id)
        assert (await two.status(job_id)).attempts == 1
    assert 1.4 < began[1] - began[0] < 10


async def test_jobs_that_wait_run_or_sleep_are_cancelled(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=1) as jobs:

        @jobs.handler("snoozes")
        async def snoozes(payload: int) -> None:
            raise JobService.Snooze(60)

        jobs.register_handler("t", journal.sleeper(60))
        async with jobs.worker() as worker:
            sleeping = await jobs.submit("snoozes", 1)
            await eventually(lambda: snoozes_now(jobs, sleeping))
            running = await jobs.submit("t", 1)
            await eventually(lambda: journal.running == 1)
            waiting = await jobs.submit("t", 2)
            for job_id in (waiting, running, sleeping):
                assert (await jobs.cancel(job_id)).status == "cancelled"
            await eventually(lambda: worker.running == 0)
            assert journal.running == 0
            await eventually(lambda: is_empty(jobs))
            with pytest.raises(JobService.Error) as caught:
                await jobs.cancel(running)
            assert caught.value.reason == "AlreadyCancelled"
            assert (await jobs.status(sleeping)).wake is None
    assert [payload for _, payload, _ in journal.starts] == [1]


async def is_empty(jobs: JobService) -> bool:
    return await left_in(jobs) == 0


async def test_progress_is_reported(jobs: JobService) -> None:
    @jobs.handler("t")
    async def handler(payload: int, ctx: JobService.Context) -> None:
        for step in range(1, 4):
            await ctx.report_progress(step * 25, f"step {step}")
            await asyncio.sleep(0.1)

    async with jobs.worker():
        job_id = await jobs.submit("t", 1)
        updates = [update async for update in jobs.progress(job_id)]
    assert [update.message for update in updates][-1] == "step 3"


async def test_a_delayed_job_runs_in_the_lane_when_it_is_due(jobs: JobService) -> None:
    @jobs.handler("t")
    async def handler(payload: int, ctx: JobService.Context) -> list[Any]:
        return [payload, ctx.lane, time.time()]

    async with jobs.worker():
        begin = time.time()
        job_id = await jobs.submit("t", 1, delay=1, priority="high")
        later = await jobs.submit("t", 2, delay=3600)
        payload, lane, at = await jobs.result(job_id)
        assert (payload, lane) == (1, "parallel")
        assert at - begin >= 0.9
        await jobs.run_now(later)
        assert (await jobs.result(later))[:2] == [2, "parallel"]


async def test_a_schedule_s_jobs_run_in_the_lane(jobs: JobService) -> None:
    ran = []

    @jobs.handler("tick")
    async def tick(payload: Any, ctx: JobService.Context) -> None:
        ran.append((ctx.lane, ctx.job_id))

    async with jobs.worker():
        await jobs.schedules.add("beat", "tick", every=1)
        await eventually(lambda: len(ran) >= 2)
        await jobs.schedules.remove("beat")
    assert {lane for lane, _ in ran} == {"parallel"}
    assert len({job_id for _, job_id in ran}) == len(ran)


async def test_a_job_that_expired_does_not_run(jobs: JobService) -> None:
    ran = []
    jobs.register_handler("t", ran.append)
    late = await jobs.submit("t", 1, expires=0.2)
    dropped = await jobs.submit("t", 2, expires=0.2, expired="drop")
    await asyncio.sleep(0.3)  # until they are too late
    in_time = await jobs.submit("t", 3, expires=60)
    async with jobs.worker(), jobs.router():
        await jobs.result(in_time)
        for job_id in (late, dropped):
            with pytest.raises(JobService.Error) as caught:
                await jobs.result(job_id)
            assert caught.value.reason == "Timeout"
        assert await eventually(lambda: jobs.dlq.find(late))
        with pytest.raises(LetterNotFound):
            await jobs.dlq.find(dropped)
    assert ran == [3]


async def test_a_dedupe_key_is_one_job_s(jobs: JobService) -> None:
    ran = []
    jobs.register_handler("t", ran.append)
    first = await jobs.submit("t", 1, dedupe_key="k")
    again = await jobs.submit("t", 2, dedupe_key="k")
    assert (first, first.duplicate, again.duplicate) == (again, False, True)
    async with jobs.worker():
        await jobs.result(first)
        await eventually(lambda: is_empty(jobs))
    assert ran == [1]


async def test_a_batch_runs_side_by_side(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=100) as jobs:
        jobs.register_handler("t", journal.sleeper(0.5))
        ids = await jobs.submit("t", list(range(60)))
        async with jobs.worker():
            await results(jobs, list(ids))
        assert ids[0].batch_id is not None
        batch = await jobs.batch(ids[0].batch_id)
        assert (batch.total, batch.counts["complete"]) == (60, 60)
    assert journal.most > 30


async def test_a_job_whose_attempts_are_spent_is_dead_and_replayed(jobs: JobService) -> None:
    healed = False

    @jobs.handler("heal", retry=JobService.Retry(initial=0.01, max_retries=2))
    async def heal(payload: int, ctx: JobService.Context) -> list[Any]:
        if not healed:
            raise ValueError("not yet")
        return [payload, ctx.lane, ctx.job_id, ctx.tenant_id]

    with jobs.request_context(tenant_id="acme"):
        job_id = await jobs.submit("heal", 1, priority="high")
    async with jobs.worker(), jobs.router():
        with pytest.raises(JobService.Error) as caught:
            await jobs.result(job_id)
        assert caught.value.reason == "MaxRetries"
        letter = await eventually(lambda: jobs.dlq.find(job_id))
        assert (letter.attempts, letter.entity, letter.app_id, letter.priority) == (3, None, "acme", "high")
        await jobs.dlq.edit(letter.id, b"7")
        healed = True
        new_id = await jobs.replay(str(letter.id))
        assert await jobs.result(new_id) == [7, "parallel", new_id, "acme"]


async def test_thread_handlers_have_as_many_threads_as_slots(service: Callable) -> None:
    lock, most = threading.Lock(), 0
    running = 0

    def plain(payload: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.5)
        with lock:
            running -= 1

    async with service(concurrency=40) as jobs:
        jobs.register_handler("t", plain)
        ids = await submit(jobs, "t", 80)
        async with jobs.worker():
            await results(jobs, ids)
    assert most == 40


async def test_process_handlers_run_in_the_lane(service: Callable) -> None:
    async with service(concurrency=4, processes=2) as jobs:
        jobs.register_handler("pid", process_handlers.pid, run_in="process")
        jobs.register_handler("die", process_handlers.die, run_in="process", retry=JobService.Retry(initial=0.01))
        ids = await submit(jobs, "pid", 20)
        async with jobs.worker():
            pids = await results(jobs, ids)
            dead = await jobs.submit("die", "exit", max_attempts=2)
            with pytest.raises(JobService.Error):
                await jobs.result(dead)
            assert await jobs.result(await jobs.submit("pid", 0))
    assert 1 <= len(set(pids)) <= 2


async def test_a_paused_partition_starts_nothing_and_its_end_is_noticed(jobs: JobService, namespace: str) -> None:
    """A worker has a bell in it; the server tells nobody that the pause is over."""
    ran = []
    jobs.register_handler("t", ran.append)
    stream = Names(namespace).queue(Queue(Priority.NORMAL, Lane.PARALLEL))
    names = [f"normal-parallel-{number}" for number in range(4)]
    async with jobs.worker() as worker:
        await eventually(lambda: worker.ready)
        await jobs.result(await jobs.submit("t", 0))
        for name in names:
            await pause_consumer(jobs.connection, stream, name, UNTIL_RESUMED)
        job_id = await jobs.submit("t", 1)
        await jobs.result(await jobs.submit("t", 2, priority="high"))
        assert (await jobs.status(job_id)).status == "queued"
        for name in names:
            await consumers.resume(jobs.connection, stream, name)
        begin = time.monotonic()
        await jobs.result(job_id)
        assert time.monotonic() - begin < 12, "a bell's heartbeat wakes a partition at the latest"
    assert ran == [0, 2, 1]
