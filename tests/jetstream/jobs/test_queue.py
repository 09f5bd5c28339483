import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import RawStreamMsg

from facts import broken
from jsjobs import JobService
from jsjobs.jetstream.api.errors import Refusal
from jsjobs.jetstream.api.publish import refusal
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import MAX_MESSAGE, JobQueue, OutgoingJob
from jsjobs.jetstream.protocol.headers import MSG_ID, TENANT
from jsjobs.jetstream.protocol.job_ids import parse_plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobId, Priority
from jsjobs.model.lanes import QUEUES, Lane, Queue
from jsjobs.settings import Config
from tcp_proxy import TcpProxy


def job(
    queue: JobQueue,
    key: str | None = None,
    *,
    data: bytes = b"1",
    priority: Priority = Priority.NORMAL,
    entity: str | None = "e",
) -> OutgoingJob:
    return queue.job(priority, entity, "t", data, {} if key is None else {MSG_ID: key})


async def waiting(connection: Connection, names: Names, priority: Priority = Priority.NORMAL) -> int:
    queues = [names.queue(Queue(priority, lane)) for lane in Lane]
    return sum([(await call(connection, f"STREAM.INFO.{queue}"))["state"]["messages"] for queue in queues])


async def body_of(plain: Client, names: Names, job_id: str) -> bytes:
    return (await message_of(plain, names, job_id)).data or b""


async def message_of(plain: Client, names: Names, job_id: str) -> RawStreamMsg:
    queue, sequence = parse_plain_id(job_id) or (None, 0)
    assert queue is not None
    return await plain.jetstream().get_msg(names.queue(queue), sequence)


def sequences(ids: list[JobId]) -> list[int]:
    return [int(job_id.rpartition("-")[2]) for job_id in ids]


def is_ack(data: bytes) -> bool:
    return b'"seq":' in data and b'"stream":' in data


# -- one job


async def test_the_receipt_is_where_the_job_stands(queue: JobQueue, names: Names, plain: Client) -> None:
    for place in QUEUES:
        entity = "e" if place.lane is Lane.ORDERED else None
        job_id = await queue.publish(job(queue, data=b'{"n":1}', priority=place.priority, entity=entity))
        assert not job_id.duplicate
        assert parse_plain_id(job_id) == (place, sequences([job_id])[0])
        assert 2**50 < sequences([job_id])[0] < 2**53
        assert await body_of(plain, names, job_id) == b'{"n":1}'


async def test_a_duplicate_gets_the_originals_id(queue: JobQueue, connection: Connection, names: Names) -> None:
    first = await queue.publish(job(queue, "k"))
    again = await queue.publish(job(queue, "k", data=b"2"))
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again == first
    assert await waiting(connection, names) == 1


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 2**20 + 1])
async def test_too_large_a_job_is_refused_and_nothing_is_queued(
    queue: JobQueue, connection: Connection, names: Names, size: int
) -> None:
    with pytest.raises(JobError) as caught:
        await queue.publish(job(queue, data=b"x" * size))
    assert caught.value.reason is Reason.VALIDATION
    assert await waiting(connection, names) == 0
    await queue.publish(job(queue, data=b"x" * MAX_MESSAGE))
    assert await waiting(connection, names) == 1


async def test_without_streams_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    queue = JobQueue(connection, Names(namespace))
    for attempt in (queue.publish(job(queue)), queue.publish_batch([job(queue)] * 3)):
        with pytest.raises(JobError, match="jsjobs streams apply") as caught:
            await attempt
        assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


def test_a_full_disk_is_not_told_as_a_full_mailbox() -> None:
    """Whatever code the server gives it."""
    text = "write /data/jetstream/1.blk: no space left on device"
    told = refusal(Refusal(503, 10077, text))
    assert told.is_transient
    assert "the disk of nats-server is full" in told.message
    assert "mailbox" not in told.message
    full = refusal(Refusal(503, 10077, "maximum messages per subject exceeded"))
    assert "the mailbox is full (maximum messages per subject exceeded)" in full.message


async def test_a_full_mailbox_queues_nothing(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], connection: Connection
) -> None:
    config = settings_of(capacity=5)
    await deploy(config)
    names = Names(config.namespace)
    queue = JobQueue(connection, names)
    await queue.publish_batch([job(queue) for _ in range(4)])
    for attempt in ([job(queue) for _ in range(2)], [job(queue, f"k{n}") for n in range(1000)]):
        with pytest.raises(JobError, match=r"mailbox is full .*nothing was queued") as caught:
            await queue.publish_batch(attempt)
        assert caught.value.reason is Reason.RUNNER_UNAVAILABLE
        assert await waiting(connection, names) == 4, "nothing of the batch"
    await queue.publish(job(queue))
    with pytest.raises(JobError, match=r"mailbox is full .*nothing was queued") as caught:
        await queue.publish(job(queue))
    assert caught.value.reason is Reason.RUNNER_UNAVAILABLE
    assert await waiting(connection, names) == 5


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_lost_receipt_is_asked_for_again_where_that_is_safe(
    proxy: TcpProxy, far: Connection, connection: Connection, names: Names, key: str | None
) -> None:
    queue = JobQueue(far, names)
    proxy.cut_before_answer(is_ack)
    if key is None:
        with pytest.raises(JobError, match="may or may not be queued; give the job a dedupe_key") as caught:
            await queue.publish(job(queue))
        assert caught.value.reason is Reason.RUNNER_UNAVAILABLE
    else:
        job_id = await queue.publish(job(queue, key))
        assert json.loads(proxy.lost[0].split(b"\r\n")[1])["seq"] == sequences([job_id])[0]
    assert proxy.lost
    assert await waiting(connection, names) == 1


# -- batches


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 2500])
@pytest.mark.parametrize(("keyed", "entity"), [(False, "e"), (True, "e"), (False, None)])
async def test_a_batch_has_contiguous_ids_in_its_order(
    queue: JobQueue,
    connection: Connection,
    names: Names,
    plain: Client,
    count: int,
    keyed: bool,
    entity: str | None,
) -> None:
    jobs = [job(queue, f"k{n}" if keyed else None, data=b"%d" % n, entity=entity) for n in range(count)]
    ids = await queue.publish_batch(jobs)
    assert len(ids) == count
    assert sequences(ids) == list(range(sequences(ids)[0], sequences(ids)[0] + count)) if ids else count == 0
    assert await waiting(connection, names) == count
    for index in {0, count // 2, count - 1} if count else ():
        assert await body_of(plain, names, ids[index]) == b"%d" % index
    assert not any(job_id.duplicate for job_id in ids)


async def test_the_same_batch_again_gives_the_same_ids_and_queues_nothing(
    queue: JobQueue, connection: Connection, names: Names
) -> None:
    jobs = [job(queue, f"k{n}") for n in range(1200)]
    first = await queue.publish_batch(jobs)
    again = await queue.publish_batch(jobs)
    assert again == first
    assert all(job_id.duplicate for job_id in again)
    assert await waiting(connection, names) == 1200


async def test_of_a_partly_new_list_the_new_jobs_are_queued(
    queue: JobQueue, connection: Connection, names: Names
) -> None:
    old = await queue.publish_batch([job(queue, f"k{n}") for n in range(3)])
    ids = await queue.publish_batch([job(queue, f"k{n}") for n in (5, 1, 6, 0, 5)])
    assert [job_id.duplicate for job_id in ids] == [False, True, False, True, True]
    assert (ids[1], ids[3], ids[4]) == (old[1], old[0], ids[0])
    assert await waiting(connection, names) == 5


@pytest.mark.parametrize("keys", [(None, "old", None), ("old", None, None), (None, None, "old")])
async def test_a_list_with_some_keys_loses_and_doubles_none_of_its_jobs(
    queue: JobQueue, connection: Connection, names: Names, plain: Client, keys: tuple[str | None, ...]
) -> None:
    old = await queue.publish(job(queue, "old", data=b'"old"'))
    ids = await queue.publish_batch([job(queue, key, data=b"%d" % n) for n, key in enumerate(keys)])
    assert await waiting(connection, names) == 3
    for number, (job_id, key) in enumerate(zip(ids, keys, strict=True)):
        assert job_id.duplicate is (key == "old")
        assert await body_of(plain, names, job_id) == (b'"old"' if key else b"%d" % number)
        assert (job_id == old) is (key == "old")


@pytest.mark.parametrize("keys", [(None,) * 4, tuple("abcd"), (None, "b", None, "d"), ("a", None, None, None)])
@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_batch_cut_off_is_queued_once(
    proxy: TcpProxy, far: Connection, connection: Connection, names: Names, plain: Client, keys: Any, lost: str
) -> None:
    queue = JobQueue(far, names)
    if lost == "answer":
        proxy.cut_before_answer(is_ack)
    else:
        proxy.cut_before_request(lambda data: b"Nats-Batch-Commit" in data)
    ids = await queue.publish_batch([job(queue, key, data=b"%d" % n) for n, key in enumerate(keys)])
    assert proxy.lost
    assert await waiting(connection, names) == 4
    assert sequences(ids) == list(range(sequences(ids)[0], sequences(ids)[0] + 4))
    assert [await body_of(plain, names, job_id) for job_id in ids] == [b"0", b"1", b"2", b"3"]


async def test_a_batch_whose_begin_went_down_with_a_connection_is_sent_again_whole(
    proxy: TcpProxy,
    far: Connection,
    connection: Connection,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, room, posted = JobQueue(far, names), far.room, []
    proxy.swallows = {"request"}

    async def breaks() -> None:
        posted.append(1)
        if len(posted) == 5:
            proxy.cut()
            proxy.swallows = set()
            await broken(far)
            await far.when_up()
        await room()

    monkeypatch.setattr(far, "room", breaks)
    monkeypatch.setattr("jsjobs.jetstream.client.connection.MAX_PENDING", 0)  # each message waits for room
    ids = await queue.publish_batch([job(queue) for _ in range(10)])
    assert len(posted) > 10
    assert sequences(ids) == list(range(sequences(ids)[0], sequences(ids)[0] + 10))
    assert await waiting(connection, names) == 10


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_job_that_is_too_large_refuses_its_whole_batch(
    queue: JobQueue, connection: Connection, names: Names, place: int
) -> None:
    jobs = [job(queue, data=b"x" * (MAX_MESSAGE if n == place else 1)) for n in range(3)]
    with pytest.raises(JobError, match=f"job {place + 1} of the list is too large.*nothing was queued") as caught:
        await queue.publish_batch(jobs)
    assert caught.value.reason is Reason.VALIDATION
    assert await waiting(connection, names) == 0


async def test_of_a_long_list_the_error_says_how_much_is_queued(
    settings_of: Callable[..., Config], deploy: Callable[[Config], Awaitable[None]], connection: Connection
) -> None:
    config = settings_of(capacity=1500)
    await deploy(config)
    queue = JobQueue(connection, Names(config.namespace))
    with pytest.raises(JobError, match=r"full.*\(1000 jobs of the list are queued\)"):
        await queue.publish_batch([job(queue) for _ in range(2000)])
    assert await waiting(connection, Names(config.namespace)) == 1000


async def test_batches_of_many_publishers_at_once_stay_whole(
    connection: Connection, far: Connection, names: Names
) -> None:
    queues = [JobQueue(each, names) for each in (connection, far)]
    lists = await asyncio.gather(*(queues[n % 2].publish_batch([job(queues[0])] * 50) for n in range(40)))
    for ids in lists:
        assert sequences(ids) == list(range(sequences(ids)[0], sequences(ids)[0] + 50))
    assert len({job_id for ids in lists for job_id in ids}) == 2000
    assert await waiting(connection, names) == 2000


# -- shards


async def shard_of(plain: Client, names: Names, job_id: str) -> int:
    message = await message_of(plain, names, job_id)
    return names.parse_stored((message.subject or "").encode()).number


async def test_an_entity_always_has_the_same_shard_and_many_have_all(
    queue: JobQueue, names: Names, plain: Client
) -> None:
    shards: dict[str, set[int]] = {}
    for _ in range(3):
        for entity in [f"customer {n}" for n in range(25)] + ["Größe.42", "a*b>"]:
            for job_type in ("a", "b.c"):
                job_id = await queue.publish(queue.job(Priority.CRITICAL, entity, job_type, b"1"))
                shards.setdefault(entity, set()).add(await shard_of(plain, names, job_id))
    assert all(len(of_one) == 1 for of_one in shards.values())
    assert set.union(*shards.values()) == {0, 1, 2, 3}


async def test_a_tenants_jobs_without_an_entity_wait_in_one_partition_and_many_tenants_have_all(
    queue: JobQueue, names: Names, plain: Client
) -> None:
    partitions: dict[str | None, set[int]] = {}
    for _ in range(3):
        for tenant in (None, "Größe.42", "a*b>", *(f"tenant {n}" for n in range(25))):
            for job_type in ("a", "b.c"):
                headers = {} if tenant is None else {TENANT: tenant}
                job_id = await queue.publish(queue.job(Priority.CRITICAL, None, job_type, b"1", headers))
                assert job_id.startswith("critical-parallel-")
                partitions.setdefault(tenant, set()).add(await shard_of(plain, names, job_id))
    assert all(len(of_one) == 1 for of_one in partitions.values())
    assert set.union(*partitions.values()) == {0, 1, 2, 3}


async def test_a_dedupe_key_is_nobody_elses(config: Config, names: Names, connection: Connection) -> None:
    async with JobService(config) as jobs:

        async def submit(tenant: str | None, job_type: str) -> JobId:
            with jobs.request_context(tenant_id=tenant) if tenant else contextlib.nullcontext():
                return await jobs.submit(job_type, 1, dedupe_key="k")

        owners = [(None, "a"), ("acme", "a"), ("acme", "b"), ("acme2", "a")]
        first = [await submit(*owner) for owner in owners]
        assert len(set(first)) == 4
        again = [await submit(*owner) for owner in owners]
        assert again == first
        assert all(job_id.duplicate for job_id in again)
    assert await waiting(connection, names) == 4
