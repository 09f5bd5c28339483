"""What a look sees of the parallel lanes, on a real server."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from busy_shards import LISTED, held, of
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import delete_consumer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.streams import delete_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.monitoring.observer import READ_OF_LANES, Observer
from jsjobs.jetstream.monitoring.overview import Overview, PartitionLook, with_rates
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.job import Priority, Status, utc_now
from jsjobs.model.lanes import Lane, Queue
from jsjobs.settings import Config


@pytest.fixture
def names(config: Config) -> Names:
    return Names(config.namespace)


@pytest.fixture
def observer(connection: Connection, names: Names) -> Observer:
    return Observer(connection, names)


async def submit_as(
    jobs: JobService, tenant: str, job_type: str, payload: list[Any], priority: str = "low"
) -> list[str]:
    with jobs.request_context(tenant_id=tenant):
        return await jobs.submit(job_type, payload, priority=priority, duration="long")


def partitions(overview: Overview, priority: str = "low") -> dict[int, PartitionLook]:
    return {look.partition.number: look for look in of(overview, priority).partitions}


async def taken(plain: Client, names: Names, partition: Partition, count: int) -> list[Any]:
    """Take jobs as a worker does, and settle none."""
    durable, stream = partition.consumer, names.queue(partition.queue)
    subscription = await plain.jetstream().pull_subscribe_bind(durable, stream)
    return await subscription.fetch(count, timeout=5)


async def test_jobs_without_a_worker_wait_in_the_partition_of_their_tenant(
    jobs: JobService, observer: Observer
) -> None:
    before = await observer.look(LISTED)
    assert [[look.name for look in each.partitions] for each in before.priorities] == [
        [f"{priority}-parallel-{number}" for number in range(4)] for priority in Priority
    ]
    first, *_ = await submit_as(jobs, "acme", "t", [1, 2, 3])
    await submit_as(jobs, "globex", "t", [1, 2])
    await jobs.submit("t", 1, priority="low", entity="e")
    now = with_rates(await observer.look(LISTED), before)
    low = of(now, "low")
    assert (low.waiting, low.running, low.retrying, low.unfinished) == (6, 0, 0, 6)
    assert sorted(look.waiting for look in low.partitions) == [0, 0, 2, 3]
    assert [look.waiting for look in low.shards] == [1]
    assert [(each.queue.name, each.stored) for each in low.queues] == [("low", 1), ("low-parallel", 5)]
    assert not any(look.has_worker or look.paused for look in low.partitions)
    ordered, parallel = (each.submitted_per_second for each in low.queues)
    assert ordered
    assert parallel
    assert low.submitted_per_second == ordered + parallel
    created_at = (await jobs.status(first)).created_at
    assert created_at is not None
    assert low.oldest_waiting_seconds == pytest.approx((low.queues[1].seen_at - created_at).total_seconds(), abs=0.05)
    assert (now.running, now.running_not_listed) == ((), 0)


async def test_the_oldest_of_both_lanes_counts(jobs: JobService, observer: Observer) -> None:
    waiting = await jobs.submit("t", 1, priority="low", entity="e")
    await asyncio.sleep(0.3)
    await submit_as(jobs, "acme", "t", [1, 2])
    low = of(await observer.look(LISTED), "low")
    created_at = (await jobs.status(waiting)).created_at
    assert created_at is not None
    assert low.oldest_waiting_seconds == pytest.approx((low.queues[0].seen_at - created_at).total_seconds(), abs=0.05)


async def test_running_jobs_of_two_partitions_are_told_and_those_behind_wait(
    jobs: JobService, observer: Observer
) -> None:
    async with held(jobs) as go_on:
        ids = [*await submit_as(jobs, "acme", "held", [1, 2]), *await submit_as(jobs, "globex", "held", [3])]
        ordered = await jobs.submit("held", 4, priority="low", entity="customer-42")

        async def running() -> Overview | None:
            seen = await observer.look(LISTED)
            return seen if [job.status for job in seen.running] == [Status.PROCESSING] * 4 else None

        now = await eventually(running)
        told = {job.job_id: job for job in now.running}
        assert set(told) == {*ids, ordered}
        one = told[ids[0]]
        assert (one.priority, one.lane, one.type, one.entity, one.tenant) == ("low", "parallel", "held", None, "acme")
        assert (one.attempt, one.next_attempt_at, one.worker) == (1, None, (await jobs.status(ids[0])).worker)
        assert abs((utc_now() - one.since).total_seconds()) < 20
        assert told[ordered].lane is Lane.ORDERED
        low = of(now, "low")
        assert (low.waiting, low.running, low.retrying, low.oldest_waiting_seconds) == (0, 4, 0, None)
        look = next(each for each in low.partitions if each.name == one.consumer)
        assert (look.running, look.unread, look.has_worker) == (2, 0, True)
        assert low.shards[0].held_by == told[ordered]
        go_on.set()
        for job_id in told:
            await jobs.result(job_id)
        done = with_rates(await eventually(lambda: quiet(observer)), now)
        assert of(done, "low").finished_per_second > 0
        assert next(each for each in of(done, "low").partitions if each.name == one.consumer).running == 0


async def quiet(observer: Observer) -> Overview | None:
    seen = await observer.look(LISTED)
    return None if of(seen, "low").unfinished else seen


async def test_a_retry_and_a_snooze_count_as_retrying_and_are_listed_last(jobs: JobService, observer: Observer) -> None:
    @jobs.handler("flaky", retry=JobService.Retry(initial=60, max_backoff=60))
    async def fail(payload: Any) -> None:
        raise ValueError("not now")

    @jobs.handler("sleepy")
    async def snooze(payload: Any) -> None:
        raise JobService.Snooze(90)

    flaky = await jobs.submit("flaky", 1, priority="low")
    sleepy = await jobs.submit("sleepy", 1, priority="low")
    async with held(jobs):
        running = None

        async def wait() -> Overview | None:
            seen = await observer.look(LISTED)
            return seen if of(seen, "low").retrying == 2 else None

        await eventually(wait)
        running = await jobs.submit("held", 1, priority="low")

        async def runs() -> Overview | None:
            seen = await observer.look(LISTED)
            return seen if seen.running[0].status is Status.PROCESSING else None

        now = await eventually(runs)
        low = of(now, "low")
        assert (low.waiting, low.running, low.retrying) == (0, 1, 2)
        assert now.running[0].job_id == running
        told = {job.job_id: job for job in now.running[1:]}
        assert set(told) == {flaky, sleepy}
        assert (told[flaky].status, told[flaky].attempt, told[flaky].snoozed_until) == (Status.QUEUED, 1, None)
        assert told[flaky].next_attempt_at - told[flaky].since > timedelta(seconds=40)
        assert told[sleepy].next_attempt_at == told[sleepy].snoozed_until
        one = (await observer.look(1)).running
        assert [job.job_id for job in one] == [running]
        assert (await observer.look(1)).running_not_listed == 2


async def test_a_job_that_no_worker_has_waits_though_it_was_delivered(
    jobs: JobService, observer: Observer, plain: Client, names: Names
) -> None:
    (job_id,) = await submit_as(jobs, "acme", "t", [1])
    await submit_as(jobs, "acme", "t", [2])
    number = next(number for number, look in partitions(await observer.look(0)).items() if look.waiting)
    (message,) = await taken(plain, names, Partition(Priority.LOW, number), 1)
    await message.nak()

    async def is_back() -> Overview | None:
        seen = await observer.look(LISTED)
        look = partitions(seen)[number]
        return seen if look.redelivered or look.waiting == 2 else None

    now = await eventually(is_back)
    low, look = of(now, "low"), partitions(now)[number]
    assert (low.waiting, low.running, low.retrying, now.running) == (2, 0, 0, ())
    created_at = (await jobs.status(job_id)).created_at
    assert created_at is not None
    assert low.oldest_waiting_seconds == pytest.approx((look.seen_at - created_at).total_seconds(), abs=0.05)
    # If no entries are read, what was delivered is taken for running.
    assert (partitions(await observer.look(0))[number].running, partitions(await observer.look(0))[number].unread) == (
        1,
        1,
    )


async def test_a_job_that_carries_its_id_is_told_by_it(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    async with held(jobs):
        subject = names.submit_parallel(Priority.LOW, "-", "held").encode()
        await Schedules(connection, names).hand_over(subject, {"Jsjobs-Id": "replay-1-x"}, b"1")

        async def running() -> Any:
            return [job for job in (await observer.look(LISTED)).running if job.status is Status.PROCESSING]

        assert [(job.job_id, job.attempt) for job in await eventually(running)] == [("replay-1-x", 1)]


@pytest.mark.parametrize("value", [b"no JSON", b'{"job_id": 7}', b""])
async def test_an_entry_that_a_stranger_wrote_stops_no_look(
    jobs: JobService, observer: Observer, names: Names, plain: Client, value: bytes
) -> None:
    (job_id,) = await submit_as(jobs, "acme", "t", [1])
    number = next(number for number, look in partitions(await observer.look(0)).items() if look.waiting)
    await taken(plain, names, Partition(Priority.LOW, number), 1)
    await (await plain.jetstream().key_value(names.bucket)).put(str(job_id), value)
    low = of(await observer.look(LISTED), "low")
    assert (low.waiting, low.running, low.retrying) == (1, 0, 0)


async def test_a_paused_partition_is_told(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    stream = names.queue(Queue(Priority.HIGH, Lane.PARALLEL))
    await call(connection, f"CONSUMER.PAUSE.{stream}.high-parallel-1", {"pause_until": "2100-01-01T00:00:00Z"})
    looks = partitions(await observer.look(LISTED), "high")
    assert [looks[number].paused for number in range(4)] == [False, True, False, False]


async def test_a_full_worker_asks_for_nothing_and_is_there_all_the_same(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], observer: Observer
) -> None:
    config = settings_of(concurrency=1)
    await deploy(config)
    async with JobService(config) as jobs, held(jobs):
        await submit_as(jobs, "acme", "held", [1, 2, 3])

        async def is_full() -> PartitionLook | None:
            looks = partitions(await observer.look(LISTED)).values()
            return next((look for look in looks if (look.running, look.unfinished) == (1, 3)), None)

        look = await eventually(is_full)
        assert look.has_worker
        assert look.waiting == 2


async def test_a_lane_without_streams_or_consumers_hides_nothing(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    await jobs.submit("t", 1, priority="low", entity="e")
    await delete_stream(connection, names.queue(Queue(Priority.LOW, Lane.PARALLEL)))
    await delete_consumer(connection, names.queue(Queue(Priority.HIGH, Lane.PARALLEL)), "high-parallel-2")
    now = await observer.look(LISTED)
    assert (of(now, "low").waiting, of(now, "low").partitions, len(of(now, "low").queues)) == (1, (), 1)
    assert list(partitions(now, "high")) == [0, 1, 3]


class CountingConnection(Connection):
    """Counts the requests."""

    asked = 0

    def ask_soon(self, *arguments: Any, **options: Any) -> asyncio.Future[Reply]:
        self.asked += 1
        return super().ask_soon(*arguments, **options)


async def test_a_look_reads_a_bounded_number_of_jobs_and_says_how_many_it_left_out(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], names: Names
) -> None:
    config = settings_of(concurrency=300, partitions=8)
    await deploy(config)
    connection = CountingConnection()
    await connection.open(config.nats_url)
    observer = Observer(connection, names)
    async with JobService(config) as jobs, held(jobs):
        for number in range(10):
            await submit_as(jobs, f"tenant-{number}", "held", list(range(30)))

        async def all_run() -> Overview | None:
            seen = await observer.look(LISTED)
            return seen if len(seen.running) == LISTED and of(seen, "low").running == 300 else None

        await eventually(all_run)
        connection.asked = 0
        now = await observer.look(LISTED)
        # The second request of each partition is not one that is answered once, and is not counted here.
        assert connection.asked <= 17 + 8 + READ_OF_LANES + 32
        assert (len(now.running), now.running_not_listed) == (LISTED, 300 - LISTED)
        low = of(now, "low")
        busy = [look for look in low.partitions if look.running]
        assert sum(look.unread for look in busy) == 300 - READ_OF_LANES
        # They share fairly what is read.
        assert all(look.running - look.unread >= READ_OF_LANES // 8 for look in busy)
    await connection.close()
