"""`jobs.queues`: what waits, runs and is paused, by priority and shard."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.lanes import Lane, Queue


async def test_queues_are_listed_with_their_shards(jobs: JobService) -> None:
    for entity in "abcdef":
        await jobs.submit("t", 1, priority="high", entity=entity)
    queues = await jobs.queues.list()
    assert [(queue.priority, len(queue.shards)) for queue in queues] == [
        ("critical", 4),
        ("high", 3),
        ("normal", 2),
        ("low", 1),
    ]
    critical, high, *_ = queues
    assert (high.waiting, high.running, high.retrying, high.redelivered, high.unfinished) == (6, 0, 0, 0, 6)
    assert high.waiting == sum(shard.waiting for shard in high.shards)
    ages = [shard.oldest_waiting_seconds for shard in high.shards if shard.waiting]
    assert high.oldest_waiting_seconds == pytest.approx(max(age for age in ages if age is not None), abs=5)
    assert critical.oldest_waiting_seconds is None
    assert [(shard.name, shard.generation, shard.has_worker, shard.held_by) for shard in high.shards] == [
        (f"high-1x3-{number}", "1x3", False, None) for number in range(3)
    ]
    assert [(each.name, each.waiting, each.has_worker, each.unread) for each in high.partitions] == [
        (f"high-parallel-{number}", 0, False, 0) for number in range(4)
    ]
    assert (high.running_shards, high.next_shards) == (high.shards, ())


async def test_one_queue_shows_its_worker_and_what_runs(jobs: JobService) -> None:
    go_on = asyncio.Event()

    @jobs.handler("held")
    async def hold(payload: Any) -> None:
        await go_on.wait()

    first = await jobs.submit("held", 1, priority="low", entity="e", duration="long")
    await jobs.submit("held", 2, priority="low", entity="e")

    async def has_begun() -> bool:
        return (await jobs.status(first)).status is JobService.Status.PROCESSING

    async with jobs.worker():
        await eventually(has_begun)
        low = await jobs.queues.show("low")
        assert (low.priority, low.waiting, low.running, low.unfinished) == (JobService.Priority.LOW, 1, 1, 2)
        assert [shard.has_worker for shard in low.shards] == [True]
        held_by = low.shards[0].held_by
        assert held_by is not None
        assert (held_by.job_id, held_by.type, held_by.status, held_by.attempt) == (first, "held", "processing", 1)
        assert held_by.since == (await jobs.status(first)).history[-1].timestamp
        overview = await jobs.queues.overview()
        assert [(job.job_id, job.consumer) for job in overview.running] == [(first, "low-1x1-0")]
        assert (await jobs.queues.overview(running=0)).running_not_listed == 1
        go_on.set()


async def test_parallel_jobs_are_counted_in_their_partitions_and_with_their_priority(jobs: JobService) -> None:
    go_on = asyncio.Event()

    @jobs.handler("held")
    async def hold(payload: Any) -> None:
        await go_on.wait()

    @jobs.handler("flaky", retry=JobService.Retry(initial=60, max_backoff=60))
    async def fail(payload: Any) -> None:
        raise ValueError("not now")

    with jobs.request_context(tenant_id="acme"):
        await jobs.submit("held", [1, 2], priority="low", duration="long")
    with jobs.request_context(tenant_id="globex"):
        await jobs.submit("flaky", [1, 2, 3], priority="low")
    waiting = await jobs.queues.show("low")
    assert sorted(each.waiting for each in waiting.partitions) == [0, 0, 2, 3]
    ages = [each.oldest_waiting_seconds for each in waiting.partitions if each.waiting]
    assert waiting.oldest_waiting_seconds == max(age for age in ages if age is not None)

    async with jobs.worker():

        async def are_told() -> bool:
            low = await jobs.queues.show("low")
            return (low.waiting, low.running, low.retrying) == (0, 2, 3)

        await eventually(are_told)
        low = await jobs.queues.show("low")
        assert sorted((each.running, each.retrying) for each in low.partitions) == [(0, 0), (0, 0), (0, 3), (2, 0)]
        assert all(each.has_worker for each in low.partitions)
        assert (low.oldest_waiting_seconds, low.unfinished) == (None, 5)
        assert [shard.held_by for shard in low.shards] == [None]
        go_on.set()


async def test_a_priority_is_paused_if_all_its_parts_are(
    jobs: JobService, connection: Connection, config: JobService.Config
) -> None:
    stream = Names(config.namespace).queue(Queue(JobService.Priority.LOW, Lane.PARALLEL))
    await pause_consumer(connection, stream, "low-parallel-0", datetime.now(UTC) + timedelta(hours=1))
    low = await jobs.queues.show("low")
    assert [each.paused for each in low.partitions] == [True, False, False, False]
    assert (low.paused, low.paused_until) == (False, None)


async def test_a_pause_is_shown_until_it_is_over(jobs: JobService) -> None:
    await jobs.pause("low")
    until = (await jobs.pause("normal", 3600)).until
    paused = {queue.priority: (queue.paused, queue.paused_until) for queue in await jobs.queues.list()}
    assert paused == {"critical": (False, None), "high": (False, None), "normal": (True, until), "low": (True, None)}
    assert all(shard.paused for shard in (await jobs.queues.show("low")).shards)
    await jobs.resume("low")
    assert not (await jobs.queues.show(JobService.Priority.LOW)).paused


async def test_no_such_priority(jobs: JobService) -> None:
    with pytest.raises(JobService.Error, match="the priority must be one of critical, high, normal, low") as caught:
        await jobs.queues.show("urgent")  # type: ignore[arg-type]
    assert caught.value.reason == "Validation"


@pytest.mark.parametrize(
    "ask",
    [
        lambda jobs: jobs.queues.list(),
        lambda jobs: jobs.queues.show("low"),
        lambda jobs: jobs.queues.overview(),
    ],
)
async def test_without_streams_the_error_says_what_to_do(
    config: JobService.Config, ask: Callable[[JobService], Awaitable[object]]
) -> None:
    async with JobService(config) as jobs:
        with pytest.raises(JobService.Error, match="run `jsjobs streams apply`") as caught:
            await ask(jobs)
    assert caught.value.reason == "NotFound"


def test_a_service_that_is_not_connected_says_so(config: JobService.Config) -> None:
    with pytest.raises(JobService.Error, match="not connected"):
        _ = JobService(config).queues
