"""What no worker ends in a parallel lane, the sweep ends; and what runs or waits there, it leaves alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance import lane_sweep
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from stream_facts import messages_in

NORMAL = Priority.NORMAL
STRANDED = {
    b"parallel.normal.*.echo": "echo",
    b"parallel.normal.-.>": ">",
    b"parallel.normal.-.*.x": "*.x",
    b"parallel.normal.-.a\x7fb": "a\x7fb",
    b"due.parallel.normal.-.*": "*",
    b"due.parallel.normal.*.sent.x": "sent.x",
}


@pytest.fixture
def names(config: JobService.Config) -> Names:
    return Names(config.namespace)


@pytest.fixture
def left(connection: Connection, names: Names) -> Callable[[], Awaitable[int]]:
    """How many messages the lane holds."""

    async def look() -> int:
        return await messages_in(connection, names.queue(Partition(NORMAL, 0).queue))

    return look


async def test_stranded_messages_are_buried_and_jobs_that_wait_are_not(
    jobs: JobService, connection: Connection, left: Callable[[], Awaitable[int]]
) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    waiting = await jobs.submit("echo", 1)
    for subject in STRANDED:
        await connection.ask(b"%b.%b" % (jobs.config.namespace.encode(), subject), b"7")

    async def holds(count: int) -> bool:
        return await left() == count

    await eventually(lambda: holds(len(STRANDED) + 1))
    async with jobs.router() as router:
        # The partition with a job that waits has not passed what came behind it.
        for _ in range(2):
            await router.sweep()
        assert await left() == len(STRANDED) + 1
        async with jobs.worker():
            assert await jobs.result(waiting) == 1

            async def only_good_jobs_are_gone() -> bool:
                await router.sweep()
                return await left() == 0

            await eventually(only_good_jobs_are_gone)
            later = await jobs.submit("echo", 2)
            assert await jobs.result(later) == 2
        letters = await jobs.dlq.list(limit=100)
    assert sorted(letter.type for letter in letters) == sorted(STRANDED.values())
    reasons = {letter.type: letter.error_reason for letter in letters}
    # A pull consumer may come across this one, and then a worker says so; no handler has such a type.
    assert reasons.pop("a\x7fb") in {"Validation", "HandlerMissing"}
    assert set(reasons.values()) == {"Validation"}
    [first] = [letter for letter in letters if letter.type == "echo"]
    status = await jobs.status(first.original_job_id)
    assert status.status == "failed"
    assert "no partition takes" in (status.last_error or "")


@pytest.mark.parametrize("status", ["complete", "cancelled", "failed"])
async def test_what_is_left_of_an_ended_job_is_deleted(
    jobs: JobService,
    plain: Client,
    names: Names,
    left: Callable[[], Awaitable[int]],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    """Its acknowledgement was lost, or the server forgot it; nobody has the job, and no worker is there."""
    monkeypatch.setattr(lane_sweep, "MOST_READ", 1)  # so that a sweep goes on where the last one ended
    with jobs.request_context(tenant_id="a"):
        job_id = await jobs.submit("work", 1)
    begun = JobStatusResponse(job_id=job_id, status=Status.QUEUED, type="work").started(utc_now(), "lost")
    ended = {
        "complete": begun.completed(utc_now()),
        "cancelled": begun.cancelled(utc_now()),
        "failed": begun.failed(utc_now(), "Validation", "no"),
    }[status]
    await state_of(jobs).write(ended, expected=0, ttl=None if status == "failed" else 3600, within=5)
    partition = await the_one_with_a_job(jobs, names)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.queue(partition.queue)}.{partition.consumer}"
    await plain.request(subject, b'{"batch": 1, "expires": 5000000000}', timeout=6, old_style=True)
    waiting = await jobs.submit("work", 2)
    async with jobs.router() as router:

        async def is_gone() -> bool:
            await router.sweep()
            return await left() == 1

        await eventually(is_gone)
        assert (await jobs.status(waiting)).status == "queued"
        letters = await jobs.dlq.list()
    assert [letter.original_job_id for letter in letters] == ([job_id] if status == "failed" else [])


async def the_one_with_a_job(jobs: JobService, names: Names) -> Partition:
    found = await live_partitions(jobs.connection, names, (NORMAL,))
    [partition] = [one for one, info in found.items() if info.num_pending]
    return partition


async def test_running_and_waiting_jobs_are_left_alone(jobs: JobService, left: Callable[[], Awaitable[int]]) -> None:
    go_on, failed = asyncio.Event(), set[int]()

    @jobs.handler("held")
    async def held(number: int) -> int:
        await go_on.wait()
        return number

    @jobs.handler("flaky", retry=JobService.Retry(max_retries=1, initial=6))
    async def flaky(number: int) -> int:
        if number not in failed:
            failed.add(number)
            raise RuntimeError
        return number

    ids = await jobs.submit("held", list(range(10)), duration="long")
    again = await jobs.submit("flaky", list(range(10)))
    async with jobs.worker(), jobs.router() as router:
        began = time.monotonic()
        while time.monotonic() - began < 5:  # longer than two times `ack_wait`
            await router.sweep()
        assert await left() >= 10
        go_on.set()
        for of_them in (ids, again):
            assert [await jobs.result(job_id, timeout=10) for job_id in of_them] == list(range(10))
        await router.sweep()
        assert await jobs.dlq.list() == []


async def test_a_job_that_counts_as_acknowledged_and_never_ran_becomes_a_dead_letter(
    jobs: JobService, plain: Client, connection: Connection, names: Names, left: Callable[[], Awaitable[int]]
) -> None:
    """The server will not deliver it any more: a consumer that was reset passed over it."""
    job_id = await jobs.submit("work", 1)
    partition = await the_one_with_a_job(jobs, names)
    stream = names.queue(partition.queue)
    after = int(job_id.rpartition("-")[2]) + 1
    await call(connection, f"CONSUMER.RESET.{stream}.{partition.consumer}", {"seq": after})
    assert await left() == 1
    async with jobs.router() as router:

        async def is_gone() -> bool:
            await router.sweep()
            return await left() == 0

        await eventually(is_gone)
        [letter] = await jobs.dlq.list()
    assert letter.original_job_id == job_id


async def test_a_router_removes_a_partition_once_its_jobs_have_ended(
    jobs: JobService, config: JobService.Config, connection: Connection, names: Names
) -> None:
    ran: set[int] = set()

    @jobs.handler("work")
    async def work(number: int) -> None:
        ran.add(number)

    for number in range(30):
        with jobs.request_context(tenant_id=f"tenant-{number}"):
            await jobs.submit("work", number)
    await TopologyReconciler(connection, names, config.model_copy(update={"partitions": 1})).apply()

    async def partitions() -> int:
        return len(await live_partitions(connection, names, (NORMAL,)))

    async with jobs.router() as router:
        await router.sweep()
        assert await partitions() == 4
        async with jobs.worker() as worker:
            await eventually(lambda: len(ran) == 30)

            async def are_removed() -> bool:
                await router.sweep()
                return await partitions() == 1

            await eventually(are_removed)
            await eventually(lambda: Partition(NORMAL, 3) not in worker.taken, within=5)
            assert worker.ready
