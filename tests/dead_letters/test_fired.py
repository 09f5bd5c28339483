"""What fired is cleared away once the queues have it, and not before."""

from collections.abc import Awaitable, Callable

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream import declared
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import Priority


async def fired_messages(connection: Connection, jobs: JobService) -> int:
    names = Names(jobs.config.namespace)
    request = {"subjects_filter": f"{names.namespace}.due.>"}
    info = await call(connection, f"STREAM.INFO.{names.schedule_stream}", request)
    return sum((info["state"].get("subjects") or {}).values())


async def test_sweeps_leave_nothing_of_what_the_queues_have(jobs: JobService, connection: Connection) -> None:
    @jobs.handler("note")
    async def note(payload: int) -> int:
        return payload

    async with jobs.worker(), jobs.router() as router:
        ids = await jobs.submit("note", list(range(50)), delay=0.3, priority="high")
        pending = await jobs.submit("note", 50, delay=3600)
        await jobs.schedules().add("beat", "note", 51, every=3600)
        await jobs.results(ids)
        assert await fired_messages(connection, jobs) == 50

        async def are_gone() -> bool:
            await router.sweep()
            return await fired_messages(connection, jobs) == 0

        await eventually(are_gone)
        assert (await jobs.status(pending)).status == "queued"
        assert [one.name for one in await jobs.schedules().list()] == ["beat"]
        # Nothing is lost of what fires later on.
        assert await jobs.result(await jobs.submit("note", 52, delay=0.1, priority="high")) == 52


async def fired_and_acknowledged(connection: Connection, jobs: JobService, count: int) -> None:
    """So many low jobs were delayed; wait until their queue has acknowledged them all."""
    names = Names(jobs.config.namespace)
    await jobs.submit("note", list(range(count)), delay=0.2, priority="low")

    async def are_acknowledged() -> bool:
        source = await call(connection, f"CONSUMER.INFO.{names.schedule_stream}.{names.source(Priority.LOW)}")
        floor, delivered = source["ack_floor"], source["delivered"]
        return floor["consumer_seq"] == count and floor["stream_seq"] == delivered["stream_seq"]

    await eventually(are_acknowledged)


async def test_what_its_queue_has_is_cleared_away_a_look_later(jobs: JobService, connection: Connection) -> None:
    """By then it has outlived whatever was going on when its queue acknowledged it."""
    clearing = jobs.router()._sweep._fired
    await fired_and_acknowledged(connection, jobs, 5)
    await clearing.clear()
    assert await fired_messages(connection, jobs) == 5
    await clearing.clear()
    assert await fired_messages(connection, jobs) == 0


async def test_what_a_queue_made_anew_has_yet_to_take_stays(
    jobs: JobService, deploy: Callable[[JobService.Config], Awaitable[None]], connection: Connection
) -> None:
    """Its source begins at the first message again: what the one before was told of was another queue's word."""
    names, ran, clearing = Names(jobs.config.namespace), list[int](), jobs.router()._sweep._fired
    stream, source = names.schedule_stream, declared.source_consumer(names, Priority.LOW)
    jobs.register_handler("note", ran.append)
    await fired_and_acknowledged(connection, jobs, 5)
    await clearing.clear()
    await call(connection, f"STREAM.DELETE.{names.stream('low')}")
    await call(connection, f"CONSUMER.DELETE.{stream}.{source['name']}")
    request = {"stream_name": stream, "config": source}
    await call(connection, f"CONSUMER.DURABLE.CREATE.{stream}.{source['name']}", request)
    await clearing.clear()
    assert await fired_messages(connection, jobs) == 5
    await deploy(jobs.config)
    async with jobs.worker():
        await eventually(lambda: len(ran) >= 5)
    assert sorted(ran) == list(range(5))


async def test_what_waits_for_a_full_queue_stays(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    connection: Connection,
) -> None:
    config = settings_of(capacity=5)
    await deploy(config)
    names = Names(config.namespace)
    async with JobService(config) as jobs:
        taken: list[int] = []

        @jobs.handler("note")
        async def note(payload: int) -> None:
            taken.append(payload)

        before = (await call(connection, f"STREAM.INFO.{names.stream('low')}"))["state"]["last_seq"]
        ids = [await jobs.submit("note", n, delay=0.2, priority="low", entity="one") for n in range(20)]

        async def have_fired() -> bool:
            return await fired_messages(connection, jobs) >= 20

        await eventually(have_fired)
        clearing, queue = jobs.router()._sweep._fired, names.stream("low")

        async def is_full() -> bool:
            return bool((await call(connection, f"STREAM.INFO.{queue}"))["state"]["messages"] == 5)

        await eventually(is_full)
        for _ in range(20):
            await clearing.clear()
        # What the queue has may be gone, the fifteen others may not. Each look found it stuck and began again.
        assert await fired_messages(connection, jobs) >= 15
        async with jobs.worker():
            await jobs.results(ids, timeout=40)
        assert taken == list(range(20))
        assert (await call(connection, f"STREAM.INFO.{queue}"))["state"]["last_seq"] - before == 20
