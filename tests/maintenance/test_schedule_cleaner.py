"""What fired is cleared away once the queues have it, and not before."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.dead_letters import recorder
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.unroutable import read_unfit
from jsjobs.jetstream.topology import declaration
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue
from router_parts import cleaner_of


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
        await jobs.schedules.add("beat", "note", 51, every=3600)
        await jobs.results(ids)
        assert await fired_messages(connection, jobs) == 50

        async def are_gone() -> bool:
            await router.sweep()
            return await fired_messages(connection, jobs) == 0

        await eventually(are_gone)
        assert (await jobs.status(pending)).status == "queued"
        assert [one.name for one in await jobs.schedules.list()] == ["beat"]
        # Nothing is lost of what fires later on.
        assert await jobs.result(await jobs.submit("note", 52, delay=0.1, priority="high")) == 52


async def fired_and_acknowledged(connection: Connection, jobs: JobService, count: int) -> None:
    """So many low jobs were delayed; wait until their queue has acknowledged them all."""
    names = Names(jobs.config.namespace)
    await jobs.submit("note", list(range(count)), delay=0.2, priority="low", entity="e")

    async def are_acknowledged() -> bool:
        source = await call(connection, f"CONSUMER.INFO.{names.schedule_stream}.{names.source(Queue(Priority.LOW))}")
        floor, delivered = source["ack_floor"], source["delivered"]
        return floor["consumer_seq"] == count and floor["stream_seq"] == delivered["stream_seq"]

    await eventually(are_acknowledged)


async def test_what_its_queue_has_is_cleared_away_a_look_later(jobs: JobService, connection: Connection) -> None:
    """By then it has outlived whatever was going on when its queue acknowledged it."""
    clearing = cleaner_of(jobs)
    await fired_and_acknowledged(connection, jobs, 5)
    await clearing.clear()
    assert await fired_messages(connection, jobs) == 5
    await clearing.clear()
    assert await fired_messages(connection, jobs) == 0


async def test_what_a_queue_made_anew_has_yet_to_take_stays(
    jobs: JobService, deploy: Callable[[JobService.Config], Awaitable[None]], connection: Connection
) -> None:
    """Its source begins at the first message again: what the one before was told of was another queue's word."""
    names, ran, clearing = Names(jobs.config.namespace), list[int](), cleaner_of(jobs)
    stream, source = names.schedule_stream, declaration.source_consumer(names, Queue(Priority.LOW))
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
        clearing, queue = cleaner_of(jobs), names.stream("low")

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


LITERAL = (b">", b"*", b"*.*.note", b"normal.>", b">.e.note", b"nowhere.*", b"nowhere.\x7f")
"""Subjects under `due` from which no queue takes, and which a filter of the same text does not find alone, or at all."""


async def publish_due(connection: Connection, names: Names, *subjects: bytes) -> None:
    for subject in subjects:
        answer = await connection.ask(b"%b.due.%b" % (names.namespace.encode(), subject), b'"astray"')
        assert b'"seq"' in answer.data, answer.data


async def test_a_literal_wildcard_subject_is_buried_and_no_other_job_in_its_place(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    connection: Connection,
) -> None:
    """The other job is due and waits for its full queue: a filter of the stranger's subject finds it first."""
    config = settings_of(capacity=1)
    await deploy(config)
    names = Names(config.namespace)
    async with JobService(config) as jobs:

        @jobs.handler("note")
        async def note(payload: int) -> int:
            return payload

        ids = [await jobs.submit("note", n, delay=0.1, priority="normal", entity="one") for n in range(3)]
        await eventually(lambda: have_fired(connection, jobs, 3))
        await publish_due(connection, names, *LITERAL)
        async with jobs.router() as router:

            async def all_are_buried() -> bool:
                await router.sweep()
                return len(await jobs.dlq.list(limit=100)) >= len(LITERAL)

            await eventually(all_are_buried)
            letters = await jobs.dlq.list(limit=100)
            assert {letter.payload for letter in letters} == {b'"astray"'}
            assert len(letters) == len(LITERAL)
            async with jobs.worker():
                assert await jobs.results(ids) == [0, 1, 2]


async def have_fired(connection: Connection, jobs: JobService, count: int) -> bool:
    return await fired_messages(connection, jobs) >= count


async def test_nothing_astray_is_buried_that_was_not_there_at_the_look_before(
    jobs: JobService, connection: Connection
) -> None:
    names, clearing = Names(jobs.config.namespace), cleaner_of(jobs)
    await publish_due(connection, names, b"one", b"two")
    await clearing.clear()
    await publish_due(connection, names, b"three", b"four")
    assert await fired_messages(connection, jobs) == 4
    await clearing.clear()
    assert await fired_subjects(connection, jobs) == {"three", "four"}
    await clearing.clear()
    assert await fired_subjects(connection, jobs) == set()


async def fired_subjects(connection: Connection, jobs: JobService) -> set[str]:
    names = Names(jobs.config.namespace)
    begin = f"{names.namespace}.due."
    info = await call(connection, f"STREAM.INFO.{names.schedule_stream}", {"subjects_filter": f"{begin}>"})
    return {subject.removeprefix(begin) for subject in info["state"].get("subjects") or {}}


async def test_one_look_reads_a_bounded_part_of_what_is_due_and_the_next_goes_on(
    jobs: JobService, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, clearing = Names(jobs.config.namespace), cleaner_of(jobs)
    monkeypatch.setattr("jsjobs.maintenance.schedule_cleaner.MAX_READ", 5)
    await publish_due(connection, names, *(b"nowhere.%d" % n for n in range(12)))
    left = []
    for _ in range(4):
        await clearing.clear()
        left.append(await fired_messages(connection, jobs))
    assert left == [12, 7, 2, 0]


async def test_large_messages_that_are_due_do_not_make_a_look_long(
    jobs: JobService, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, clearing = Names(jobs.config.namespace), cleaner_of(jobs)
    monkeypatch.setattr("jsjobs.maintenance.schedule_cleaner.MAX_BYTES_READ", 250_000)
    for number in range(5):
        await connection.ask(f"{names.namespace}.due.nowhere.{number}".encode(), b"x" * 100_000)
    left = []
    for _ in range(3):
        await clearing.clear()
        left.append(await fired_messages(connection, jobs))
    assert left == [5, 2, 0]


async def test_a_letter_that_is_not_answered_ends_neither_the_look_nor_what_comes_behind_it(
    jobs: JobService, connection: Connection, plain: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WRITE_WITHIN", 0.3)
    jobs.register_handler("note", lambda payload: payload)
    names, clearing = Names(jobs.config.namespace), cleaner_of(jobs)
    await publish_due(connection, names, b"one", b"two")
    info = await call(connection, f"STREAM.INFO.{names.dead_stream}")
    await call(connection, f"STREAM.DELETE.{names.dead_stream}")
    await plain.subscribe(f"{names.namespace}.dead.*")
    await plain.flush()
    async with jobs.worker():
        await jobs.result(await jobs.submit("note", 1, delay=0.1))

    async def is_purged() -> bool:
        await asyncio.wait_for(clearing.clear(), 20)
        return await fired_subjects(connection, jobs) == {"one", "two"}

    await eventually(is_purged)
    for job_id in await ids_of_astray(connection, names):
        assert (await jobs.status(job_id)).status == "failed"
    await call(connection, f"STREAM.CREATE.{names.dead_stream}", info["config"])

    async def have_letters() -> bool:
        await clearing.clear()
        return await fired_subjects(connection, jobs) == set()

    await eventually(have_letters)
    assert (await call(connection, f"STREAM.INFO.{names.dead_stream}"))["state"]["messages"] == 2


async def ids_of_astray(connection: Connection, names: Names) -> list[str]:
    found = [message async for message in stored(connection, names.schedule_stream, f"{names.namespace}.due.*")]
    return [read_unfit(names, message).job_id for message in found]
