"""Consumers of partitions that are missing or faulty are restored, and jobs that run meanwhile run once."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import delete_consumer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.jetstream.topology.partitions import Partitions, live_partitions
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance.sweep import Sweep
from jsjobs.model.job import Priority

LOW = Priority.LOW
PARTITIONS = [Partition(LOW, number) for number in range(4)]


@pytest.fixture
def names(config: JobService.Config) -> Names:
    return Names(config.namespace)


@pytest.fixture(autouse=True)
def sweeps_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(_: Sweep) -> None:
        """The sweep finds it too, but not for two minutes."""

    monkeypatch.setattr(Sweep, "once", none)


async def delete_all(connection: Connection, names: Names) -> None:
    for partition in PARTITIONS:
        await delete_consumer(connection, names.queue(partition.queue), partition.consumer)


async def partitions(connection: Connection, names: Names) -> Partitions:
    return await live_partitions(connection, names, (LOW,))


async def test_lost_partitions_are_back_in_seconds(
    jobs: JobService, connection: Connection, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    ran: set[int] = set()

    @jobs.handler("work")
    async def work(number: int) -> None:
        ran.add(number)

    async with jobs.router(), jobs.worker() as worker:
        await delete_all(connection, names)
        await jobs.submit("work", list(range(20)), priority="low")
        await eventually(lambda: ran == set(range(20)))
        await eventually(lambda: worker.ready)
    assert "consumers were missing or wrong and were restored: low-parallel-0, low-parallel-1" in caplog.text


@pytest.mark.parametrize("change", [{"max_ack_pending": 1}, {"max_deliver": 3}, {"inactive_threshold": 10**12}])
async def test_a_faulty_partition_is_mended(
    jobs: JobService, connection: Connection, names: Names, change: dict[str, Any]
) -> None:
    stream, consumer = names.queue(PARTITIONS[0].queue), PARTITIONS[0].consumer
    told = (await partitions(connection, names))[PARTITIONS[0]].config.as_told
    changed = {**told, **change, "ack_wait": 3 * 10**9}
    request = {"stream_name": stream, "config": changed, "action": "update"}
    await call(connection, f"CONSUMER.CREATE.{stream}.{consumer}", request)

    async def is_mended() -> bool:
        now = (await partitions(connection, names))[PARTITIONS[0]].config.as_told
        # An operator may have chosen another `ack_wait`: it stays.
        return {**now, "ack_wait": 0} == {**told, "ack_wait": 0} and now["ack_wait"] == 3 * 10**9

    async with jobs.router():
        await eventually(is_mended)


async def test_a_partition_that_is_restored_is_paused_like_its_siblings(
    jobs: JobService, connection: Connection, names: Names
) -> None:
    await jobs.pause("low")
    await delete_all(connection, names)
    async with jobs.router():

        async def are_back() -> bool:
            found = await partitions(connection, names)
            return len(found) == 4 and {info.paused_until for info in found.values()} == {UNTIL_RESUMED}

        await eventually(are_back)


async def test_jobs_that_run_while_their_partition_is_created_again_run_once(
    jobs: JobService, connection: Connection, names: Names
) -> None:
    """The new consumer delivers them again, and counts from one; some have run for longer than `ack_wait`."""
    began, go_on = Counter[int](), asyncio.Event()
    failed: set[int] = set()

    @jobs.handler("held")
    async def held(number: int) -> int:
        if number % 2 and number not in failed:
            failed.add(number)
            raise RuntimeError  # the attempt that counts is that of a later delivery
        began[number] += 1
        await go_on.wait()
        return number

    async with jobs.worker():
        ids = await jobs.submit("held", list(range(10)), priority="low", duration="long")
        await eventually(lambda: len(began) == 10)
        await asyncio.sleep(3)  # `ack_wait` is two seconds
        more = await jobs.submit("held", list(range(10, 20)), priority="low", duration="long")
        await eventually(lambda: len(began) == 20)
        async with jobs.worker():  # another one, which has none of them in hand
            await delete_all(connection, names)
            # At once: a lease of two seconds is over before a router has looked twice.
            await TopologyReconciler(connection, names, jobs.config).apply()

            async def are_delivered_again() -> bool:
                return sum(info.num_ack_pending for info in (await partitions(connection, names)).values()) == 20

            await eventually(are_delivered_again)
            await asyncio.sleep(7)  # three times `ack_wait`
        assert set(began.values()) == {1}
        go_on.set()
        assert [await jobs.result(job_id, timeout=15) for job_id in (*ids, *more)] == list(range(20))
    assert set(began.values()) == {1}


async def test_jobs_of_a_lost_worker_run_again_though_their_partition_is_a_new_one(
    jobs: JobService, service: Any, connection: Connection, names: Names
) -> None:
    began = Counter[str]()

    async with service() as other:

        @other.handler("held")
        async def lost(_: int) -> None:
            began["lost"] += 1
            await asyncio.Event().wait()

        @jobs.handler("held")
        async def held(number: int) -> int:
            began["again"] += 1
            return number

        worker = other.worker()
        await worker.start()
        ids = await jobs.submit("held", list(range(5)), priority="low", duration="long")
        await eventually(lambda: began["lost"] == 5)
        await other.connection.close()  # as if it were killed: it renews nothing any more
        await delete_all(connection, names)
        async with jobs.router(), jobs.worker():
            assert [await jobs.result(job_id, timeout=20) for job_id in ids] == list(range(5))
    assert began["again"] == 5
