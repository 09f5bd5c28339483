"""The number of a lane's partitions is changed while jobs come and go: none is lost, and workers follow at once."""

import asyncio
from collections import Counter

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import delete_consumer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.settings import Config

NORMAL = Priority.NORMAL


async def numbers(connection: Connection, names: Names) -> set[int]:
    return {one.number for one in await live_partitions(connection, names, (NORMAL,))}


def of_lane(steps: list[Step], names: Names) -> list[Step]:
    lane = names.queue(Partition(NORMAL, 0).queue)
    return [step for step in steps if lane in {step.stream, step.name} and step.action is not Action.KEEP]


async def apply(connection: Connection, names: Names, config: Config, partitions: int) -> list[Step]:
    more = config.model_copy(update={"partitions": partitions})
    return of_lane(await TopologyReconciler(connection, names, more).apply(), names)


async def submit_spread(jobs: JobService) -> None:
    """Forty jobs of type `work`, over all partitions of the lane."""
    for number in range(40):
        with jobs.request_context(tenant_id=f"tenant-{number}"):
            await jobs.submit("work", number)


async def test_partitions_are_added_and_removed_under_load(
    jobs: JobService, config: Config, connection: Connection, names: Names
) -> None:
    ran = Counter[int]()

    @jobs.handler("count")
    async def count(number: int) -> None:
        await asyncio.sleep(0.005)
        ran[number] += 1

    submitted = 0

    async def submit_on() -> None:
        nonlocal submitted
        while True:
            for tenant in range(12):  # over the partitions
                with jobs.request_context(tenant_id=f"tenant-{tenant}"):
                    await jobs.submit("count", submitted)
                submitted += 1

    async with jobs.worker():
        load = asyncio.create_task(submit_on())
        for partitions in (9, 2, 5, 1, 4):
            before = submitted
            await apply(connection, names, config, partitions)
            assert set(range(partitions)) <= await numbers(connection, names)
            await eventually(lambda before=before: submitted > before + 100)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await eventually(lambda: set(range(submitted)) <= set(ran))

        async def only_those_needed() -> bool:
            await apply(connection, names, config, 4)
            return await numbers(connection, names) == set(range(4))

        await eventually(only_those_needed)
    assert set(ran.values()) == {1}


async def test_workers_take_jobs_of_a_new_partition_at_once(
    jobs: JobService, config: Config, connection: Connection, names: Names
) -> None:
    """Nothing else tells them: they look by themselves twice a minute."""
    ran: set[str] = set()

    @jobs.handler("note")
    async def note(tenant: str) -> None:
        ran.add(tenant)

    tenants = {f"tenant-{number}" for number in range(40)}
    async with jobs.worker() as worker:
        await apply(connection, names, config, 12)
        await eventually(lambda: Partition(NORMAL, 11) in worker.taken, within=5)
        for tenant in tenants:
            with jobs.request_context(tenant_id=tenant):
                await jobs.submit("note", tenant)
        await eventually(lambda: ran == tenants, within=5)
        await apply(connection, names, config, 2)
        await apply(connection, names, config, 2)
        assert await numbers(connection, names) == {0, 1}
        await eventually(lambda: {one.number for one in worker.taken if isinstance(one, Partition)} == {0, 1}, within=5)


async def test_a_removed_partition_stays_until_its_jobs_have_ended(
    jobs: JobService, config: Config, connection: Connection, names: Names
) -> None:
    await submit_spread(jobs)
    [update] = await apply(connection, names, config, 1)
    assert (update.action, update.changes) == (Action.UPDATE, {"partitions": (4, 1)})
    assert await apply(connection, names, config, 1) == []
    steps = await TopologyReconciler(connection, names, config.model_copy(update={"partitions": 1})).plan()
    kept = [step for step in steps if step.name == "normal-parallel-3"]
    assert [step.action for step in kept] == [Action.KEEP]
    assert "must end first" in kept[0].reason

    @jobs.handler("work")
    async def work(_: int) -> None:
        pass

    async with jobs.worker():

        async def removed() -> bool:
            await apply(connection, names, config, 1)
            return await numbers(connection, names) == {0}

        await eventually(removed)


async def test_a_removed_partition_that_is_lost_with_its_jobs_is_created_again(
    jobs: JobService, config: Config, connection: Connection, names: Names
) -> None:
    ran: set[int] = set()

    @jobs.handler("work")
    async def work(number: int) -> None:
        ran.add(number)

    await submit_spread(jobs)
    await apply(connection, names, config, 1)
    for number in (1, 2, 3):
        gone = Partition(NORMAL, number)
        await delete_consumer(connection, names.queue(gone.queue), gone.consumer)
    async with jobs.worker():
        created = await apply(connection, names, config, 1)
        assert {(step.action, step.kind) for step in created} == {(Action.CREATE, "consumer")}
        await eventually(lambda: ran == set(range(40)))
