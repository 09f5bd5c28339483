"""A worker with a bound, on a real server."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from bounds import Journal, fill, fill_each_shard, sleeper, start_in_each_shard, watch_deliveries

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.monitoring.overview import ShardLook
from jsjobs.jetstream.protocol.names import Names


@pytest.mark.parametrize("bound", [1, 3, 10])
@pytest.mark.parametrize("seconds", [0.001, 0.03])
async def test_never_more_than_so_many_handlers_at_once(service: Callable, bound: int, seconds: float) -> None:
    journal = Journal()
    async with service(concurrency=bound) as jobs:
        jobs.register_handler("t", sleeper(journal, seconds))
        ids = await fill(jobs, "t", 12)
        async with jobs.worker() as worker:
            ids += await fill(jobs, "t", 3)
            for job_id in ids:
                await jobs.result(job_id, timeout=60)
            await eventually(lambda: worker.running == 0)
            assert worker.ready
    assert journal.most <= bound
    assert bound > 5 or journal.most == bound
    assert len(journal.begun) == len(ids)


async def test_threads_are_bounded_too(service: Callable) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def plain(payload: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async with service(concurrency=2) as jobs:
        jobs.register_handler("t", plain)
        ids = await fill(jobs, "t", 6)
        async with jobs.worker():
            for job_id in ids:
                await jobs.result(job_id, timeout=30)
    assert most == 2


async def test_one_at_a_time_works_every_shard_and_critical_ones_more(
    service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, counts = Journal(), watch_deliveries(monkeypatch)
    async with service(concurrency=1) as jobs:
        jobs.register_handler("t", sleeper(journal, 0.02))
        ids = await fill_each_shard(jobs, "t", 40)
        async with jobs.worker() as worker:
            await eventually(lambda: len(journal.begun) >= 150, within=60)
            worker.stop_now()
            done = journal.shards
            assert len(done) == 10, done
            critical, low = sum(n for name, n in done.items() if name.startswith("critical")), done["low-0"]
            assert critical >= 3 * low, done
            assert low >= 2
        assert journal.most == 1
        # Ten wait for the one slot, and each goes back after 10 ms: after longer, the more often it came.
        assert max(counts.values()) <= 40
    assert len(ids) == 400


async def test_a_process_at_its_bound_leaves_the_rest_to_another(service: Callable) -> None:
    async with service(concurrency=2) as busy, service(concurrency=8) as other:
        at_work, done = Journal(), Journal()
        busy.register_handler("long", sleeper(at_work, 60))
        ids = [await busy.submit("long", n, priority=p, duration="long") for n, p in enumerate(("critical", "low"))]
        async with busy.worker() as first:
            await eventually(lambda: at_work.running == 2)
            busy.register_handler("t", sleeper(at_work, 0))
            other.register_handler("t", sleeper(done, 0))
            other.register_handler("long", sleeper(done, 60))
            async with other.worker():
                for number in range(40):
                    begin = time.monotonic()
                    job_id = await other.submit("t", number, priority=("high", "normal")[number % 2])
                    await other.result(job_id, timeout=10)
                    assert time.monotonic() - begin < 1
                assert first.ready
                assert (len(at_work.begun), len(done.begun)) == (2, 40)
                for job_id in ids:
                    await other.cancel(job_id)
                await eventually(lambda: first.running == 0)


async def test_a_full_worker_goes_on_listening_to_every_shard(service: Callable) -> None:
    """It has a job of every shard, and may run one."""
    async with service(concurrency=1) as jobs, service() as asking:
        jobs.register_handler("t", sleeper(Journal(), 60))
        observer = Observer(asking.connection, Names(asking.config.namespace))
        ids = await fill_each_shard(asking, "t", 2)

        async def shards() -> list[ShardLook]:
            return [shard for look in (await observer.look(0)).priorities for shard in look.shards]

        assert not any(shard.has_worker for shard in await shards())
        async with jobs.worker() as worker:
            await eventually(lambda: worker.running == 1)

            async def all_have_come() -> bool:
                found = await shards()
                assert all(shard.has_worker for shard in found)
                return all(shard.running == 1 for shard in found)

            await eventually(all_have_come)
            assert worker.ready
            for job_id in ids:
                await asking.cancel(job_id)


async def test_what_comes_at_the_same_moment_goes_to_another_at_once(service: Callable) -> None:
    """Ten long jobs for five processes of two: none waits though one has a slot."""
    journal = Journal()
    services = [service(concurrency=2) for _ in range(5)]
    opened = [await each.__aenter__() for each in services]
    workers = []
    for each in opened:
        each.register_handler("t", sleeper(journal, 60))
        workers.append(each.worker())
        await workers[-1].start()
    jobs = opened[0]
    begin = time.monotonic()
    async with service() as submitter:
        ids = await start_in_each_shard(submitter, "t")
    await eventually(lambda: journal.running == 10)
    assert time.monotonic() - begin < 10
    assert [worker.running for worker in workers] == [2] * 5
    for job_id in ids:
        await jobs.cancel(job_id)
    for worker, each in zip(workers, services, strict=True):
        await worker.stop(0)
        await each.__aexit__(None, None, None)


async def test_order_holds_and_an_idle_worker_is_as_quick(service: Callable) -> None:
    seen: dict[str, list[int]] = {}

    async with service(concurrency=1) as jobs:

        @jobs.handler("t")
        async def handler(payload: int, ctx: JobService.Context) -> None:
            assert ctx.entity is not None
            seen.setdefault(ctx.entity, []).append(payload)
            if payload % 7 == 3 and ctx.attempt == 1:
                raise ValueError("again")
            await asyncio.sleep(0.001 * (payload % 3) * 6)

        async with jobs.worker():
            ids = [
                await jobs.submit("t", n, entity=f"e{e}", priority=("high", "normal")[e % 2], max_attempts=2)
                for n in range(15)
                for e in range(6)
            ]
            for job_id in ids:
                await jobs.result(job_id, timeout=60)
            for payloads in seen.values():
                assert [n for i, n in enumerate(payloads) if n not in payloads[:i]] == list(range(15))
            quick = []
            for n in range(50):
                begin = time.monotonic()
                await jobs.result(await jobs.submit("t", 0, entity=f"x{n}"), timeout=5)
                quick.append(time.monotonic() - begin)
            assert sorted(quick)[25] < 0.1
