"""What a look at a namespace sees, on a real server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from busy_shards import LISTED, held, holding, of
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.monitoring.overview import Overview, with_rates
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority, Status, utc_now
from jsjobs.model.lanes import Lane
from jsjobs.settings import Config


@pytest.fixture
def names(config: Config) -> Names:
    return Names(config.namespace)


@pytest.fixture
def observer(connection: Connection, names: Names) -> Observer:
    return Observer(connection, names)


async def test_a_namespace_without_streams_is_not_found(observer: Observer) -> None:
    with pytest.raises(JobError, match="run `jsjobs streams apply`") as caught:
        await observer.look(LISTED)
    assert caught.value.reason is Reason.NOT_FOUND


async def test_jobs_without_a_worker_wait(jobs: JobService, observer: Observer) -> None:
    before = await observer.look(LISTED)
    assert [(look.priority, len(look.shards), look.waiting) for look in before.priorities] == [
        ("critical", 4, 0),
        ("high", 3, 0),
        ("normal", 2, 0),
        ("low", 1, 0),
    ]
    assert of(before, "low").oldest_waiting_seconds is None
    first = await jobs.submit("t", 1, priority="low", entity="e")
    await jobs.submit("t", [2, 3], priority="low", entity="e")
    now = with_rates(await observer.look(LISTED), before)
    low = of(now, "low")
    assert (low.waiting, low.running, low.redelivered) == (3, 0, 0)
    assert [(each.queue.name, each.stored) for each in low.queues] == [("low", 3), ("low-parallel", 0)]
    assert (now.running, now.running_not_listed) == ((), 0)
    assert not low.shards[0].has_worker
    assert not low.shards[0].paused
    created_at = (await jobs.status(first)).created_at
    assert created_at is not None
    assert low.oldest_waiting_seconds == pytest.approx((low.queues[0].seen_at - created_at).total_seconds())
    assert low.submitted_per_second is not None
    assert low.submitted_per_second > 0
    assert low.finished_per_second == 0
    assert of(now, "high").submitted_per_second == 0


async def test_a_running_job_is_told_and_the_one_behind_it_waits(jobs: JobService, observer: Observer) -> None:
    async with held(jobs) as go_on:
        with jobs.request_context(tenant_id="acme"):
            first = await jobs.submit("held", 1, priority="low", entity="customer-42", max_attempts=7)
        behind = await jobs.submit("held", 2, priority="low", entity="e")

        async def running() -> Any:
            seen = await observer.look(LISTED)
            return seen if seen.running and seen.running[0].status is Status.PROCESSING else None

        now = await eventually(running)
        (job,) = now.running
        assert (job.job_id, job.priority, job.type, job.entity, job.tenant) == (
            first,
            "low",
            "held",
            "customer-42",
            "acme",
        )
        assert job.lane is Lane.ORDERED
        assert (job.consumer, job.attempt, job.max_attempts, job.next_attempt_at) == ("low-1x1-0", 1, 7, None)
        assert job.worker == (await jobs.status(first)).worker
        assert abs((utc_now() - job.since).total_seconds()) < 20
        low, waiting = of(now, "low"), (await jobs.status(behind)).created_at
        assert (low.waiting, low.running, low.redelivered, low.shards[0].has_worker) == (1, 1, 0, True)
        assert waiting is not None
        # The oldest job of the queue runs, so it does not count.
        assert low.oldest_waiting_seconds == pytest.approx((low.queues[0].seen_at - waiting).total_seconds())
        go_on.set()
        await jobs.result(behind)
        done = with_rates(await eventually(lambda: settled(observer)), now)
        assert of(done, "low").finished_per_second > 0
        assert of(done, "low").shards[0].deliveries_per_second > 0


async def settled(observer: Observer) -> Overview | None:
    seen = await observer.look(LISTED)
    return None if of(seen, "low").queues[0].stored or seen.running else seen


async def test_a_paused_shard_is_told(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    pause = {"pause_until": "2100-01-01T00:00:00Z"}
    await call(connection, f"CONSUMER.PAUSE.{names.stream('high')}.high-1x3-1", pause)
    high = of(await observer.look(LISTED), "high")
    assert [(shard.name, shard.paused) for shard in high.shards] == [
        ("high-1x3-0", False),
        ("high-1x3-1", True),
        ("high-1x3-2", False),
    ]


async def test_letters_that_no_router_took_are_counted(jobs: JobService, observer: Observer) -> None:
    @jobs.handler("dies")
    async def die(payload: Any) -> None:
        raise JobService.Error("Validation", "never")

    job_id = await jobs.submit("dies", 1)
    async with jobs.worker():
        with pytest.raises(JobService.Error):
            await jobs.result(job_id)
        await eventually(lambda: letters(observer))
    assert (await observer.look(LISTED)).letters_waiting == 1


async def letters(observer: Observer) -> int:
    return (await observer.look(LISTED)).letters_waiting


async def test_a_change_of_the_shard_count_is_told(
    jobs: JobService, observer: Observer, connection: Connection, names: Names, config: Config, plain: Client
) -> None:
    """Generations in the order of their list, whatever their numbers; those behind the first are the next."""
    await jobs.submit("t", [1, 2], priority="low", entity="e")
    for number in (1, 0):
        shard = Shard(Priority.LOW, Generation(2, 2), number)
        body = declaration.shard_consumer(config, names, shard) | {"pause_until": "2100-01-01T00:00:00Z"}
        request = {"stream_name": names.stream("low"), "config": body, "action": "create"}
        await call(connection, f"CONSUMER.DURABLE.CREATE.{names.stream('low')}.{shard.consumer}", request)
    bucket = await plain.jetstream().key_value(names.bucket)
    await bucket.put(names.topology_key(Priority.LOW), json.dumps({"generations": ["1x1", "2x2"]}).encode())
    low = of(await observer.look(LISTED), "low")
    assert [shard.name for shard in low.running_shards] == ["low-1x1-0"]
    assert [(shard.name, shard.paused) for shard in low.next_shards] == [("low-2x2-0", True), ("low-2x2-1", True)]
    assert low.waiting == 2


async def test_shards_stand_in_the_order_of_their_numbers(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], observer: Observer
) -> None:
    await deploy(settings_of(pools={"low": 12}))
    assert [shard.name for shard in of(await observer.look(LISTED), "low").shards] == [
        f"low-1x12-{number}" for number in range(12)
    ]


class CountingConnection(Connection):
    """Counts the requests."""

    asked = 0

    def ask_soon(self, *arguments: Any, **options: Any) -> asyncio.Future[Reply]:
        self.asked += 1
        return super().ask_soon(*arguments, **options)


async def test_a_look_costs_a_bounded_number_of_requests_however_many_shards_there_are(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], names: Names
) -> None:
    config = settings_of(pools=dict.fromkeys(Priority, 24))
    await deploy(config)
    connection = CountingConnection()
    await connection.open(config.nats_url)
    observer = Observer(connection, names)
    async with JobService(config) as jobs, holding(connection, names, *await live_shards(connection, names)) as held:
        for priority in Priority:
            await jobs.submit_payloads(
                JobService.Payload(type="t", priority=priority, entity=f"e-{number}") for number in range(400)
            )
        await eventually(lambda: len(held) == 4 * 24)
        connection.asked = 0
        now = await observer.look(5)
        assert len(now.running) == 5
        assert now.running_not_listed == 4 * 24 - 5
        assert all(look.waiting == 400 - 24 and look.oldest_waiting_seconds is not None for look in now.priorities)
        assert connection.asked <= 17 + 3 * 64 + 32
    await connection.close()
