"""The record of a batch, and the counts of its jobs."""

import asyncio
import base64
import json
from typing import Any

import pytest

from facts import eventually
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.tracking import batches as batches_module
from jsjobs.jetstream.tracking.batches import Batches
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.lanes import Lane, Queue

LANE = Queue(Priority.LOW, Lane.PARALLEL)
HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
async def batches(connection: Connection, names: Names) -> Batches:
    return Batches(connection, names, result_ttl=HOUR)


async def test_a_batch_is_counted_by_the_statuses_of_its_jobs(
    batches: Batches, queue: JobQueue, state: StateStore, connection: Connection, names: Names
) -> None:
    ids = await queue.publish_batch([queue.job(Priority.LOW, None, "t", b"1") for _ in range(300)])
    entries = [JobStatusResponse(job_id=job_id, status=Status.QUEUED, type="t") for job_id in ids]
    started = [entry.started(utc_now(), "w") for entry in entries]
    ends = [
        started[0].completed(utc_now()),
        started[1].failed(utc_now(), Reason.PROCESSING, "x"),
        started[2].cancelled(utc_now()),
        started[3],
        started[4].retried(utc_now(), "oops", due=utc_now(), retry=None),
        started[5].completed(utc_now()),
    ]
    for entry in ends:
        await state.write(text_of(entry, b'{"status":"failed"}'), expected=0, ttl=1 if entry is ends[5] else None)
    lost = ids[6]  # neither an entry nor a message: it ended long ago
    await call(connection, f"STREAM.MSG.DELETE.{names.queue(LANE)}", {"seq": int(lost.rpartition("-")[2])})
    await batches.record("b1", ids)

    async def counted() -> bool:
        status = await batches.status("b1")
        assert (status.total, status.ids, status.batch_id) == (300, tuple(ids), "b1")
        assert abs((utc_now() - status.created_at).total_seconds()) < 30
        expected = {"queued": 293 + 1, "processing": 1, "complete": 1, "failed": 1, "cancelled": 1}
        return status.counts == expected and (status.expired, status.ended) == (2, 5)

    await eventually(counted)


async def test_a_job_that_ends_while_it_is_counted_is_counted_as_ended(
    batches: Batches,
    queue: JobQueue,
    state: StateStore,
    connection: Connection,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had no entry at the look for entries, and no message any more at the look for messages."""
    ids = await queue.publish_batch([queue.job(Priority.LOW, None, "t", b"1") for _ in range(2)])
    await batches.record("b1", ids)
    read, sequence = batches_module.read_one, int(ids[0].rpartition("-")[2])

    async def ending(over: Connection, stream: str, request: dict[str, Any], **more: Any) -> Reply:
        if (stream, request) == (names.queue(LANE), {"seq": sequence}):
            started = JobStatusResponse(job_id=ids[0], status=Status.QUEUED, type="t").started(utc_now(), "w")
            await state.write(started.completed(utc_now()), expected=0, ttl=HOUR)
            await call(connection, f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})
        return await read(over, stream, request, **more)

    monkeypatch.setattr(batches_module, "read_one", ending)
    status = await batches.status("b1")
    assert (status.counts["complete"], status.counts["queued"], status.expired) == (1, 1, 0)


async def test_a_record_that_a_replica_has_not_heard_of_yet_is_looked_for_again(
    batches: Batches, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await queue.publish_batch([queue.job(Priority.LOW, None, "t", b"1")])
    read, reads = batches_module.read_one, 0

    async def lagging(*arguments: Any, **more: Any) -> Reply:
        nonlocal reads
        reads += 1
        try:
            return await read(*arguments, **more)
        finally:
            if reads == 1:
                await batches.record("b1", ids)

    monkeypatch.setattr(batches_module, "read_one", lagging)
    [outcome] = await asyncio.gather(batches.status("b1"), return_exceptions=True)
    assert not isinstance(outcome, BaseException)
    assert outcome.total == 1


async def test_a_record_outlives_the_entries_of_its_jobs(
    batches: Batches, connection: Connection, names: Names
) -> None:
    await batches.record("b1", ["low-1"])
    request = {"last_by_subj": names.batch("b1").decode()}
    answer = await connection.ask(f"$JS.API.STREAM.MSG.GET.{names.state_stream}".encode(), json.dumps(request).encode())
    assert b"Nats-TTL: %ds" % (HOUR + 30 * DAY) in base64.b64decode(json.loads(answer.data)["message"]["hdrs"])


async def test_a_list_of_scattered_ids_is_split_and_none_is_lost(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "RUNS_PER_PART", 10)
    ids = [f"low-{number}" for number in range(1, 105, 2)]
    await batches.record("b1", ids)
    status = await batches.status("b1")
    assert (status.ids, status.expired) == (tuple(ids), 52)


async def test_the_largest_part_fits_into_a_message(batches: Batches, connection: Connection, names: Names) -> None:
    ids = [f"replay-{'x' * 90}{number:08}" for number in range(12_000)]
    await batches.record("b1", ids)
    request = {"subjects_filter": f"{names.batch('b1').decode()}.>"}
    info = await call(connection, f"STREAM.INFO.{names.state_stream}", request)
    assert set(info["state"]["subjects"]) == {names.batch("b1", number).decode() for number in (1, 2)}
    assert (await batches.status("b1")).ids == tuple(ids)


@pytest.mark.parametrize(
    "batch_id", ["unknown", "", "a.b", "*", ">", "a b", "x" * 65, "\ud800", "b1\r\nPUB x 0\r\n", "critical"]
)
async def test_what_is_no_batch_is_not_found(batches: Batches, batch_id: str) -> None:
    with pytest.raises(JobError) as caught:
        await batches.status(batch_id)
    assert caught.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("batch_id", [5, None, b"b1", ["b1"]])
async def test_what_is_no_text_is_refused(batches: Batches, batch_id: object) -> None:
    with pytest.raises(JobError, match="a batch id must be a string") as caught:
        await batches.status(batch_id)
    assert caught.value.reason is Reason.VALIDATION


async def test_an_expired_record_is_not_found(connection: Connection, names: Names) -> None:
    batches = Batches(connection, names, result_ttl=1 - 30 * DAY)
    await batches.record("b1", ["low-1"])

    async def expired() -> bool:
        try:
            await batches.status("b1")
        except JobError as error:
            return error.reason is Reason.NOT_FOUND and "so old" in error.message
        return False

    await eventually(expired)


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[]",
        b'{"batch_id":"b1","created_at":"2026-01-01T00:00:00Z","total":7,"runs":["low-1"]}',
        b'{"batch_id":"b1","created_at":"2026-01-01T00:00:00Z","total":999999999999,"runs":["low-1:999999999"]}',
        b'{"batch_id":"b1","created_at":"2026-01-01T00:00:00Z","total":1,"parts":2,"runs":["low-1"]}',
    ],
)
async def test_a_record_that_somebody_else_wrote_is_an_error_and_no_crash(
    batches: Batches, connection: Connection, names: Names, body: bytes
) -> None:
    await connection.ask(names.batch("b1"), body)
    with pytest.raises(JobError) as caught:
        await batches.status("b1")
    assert caught.value.reason in {Reason.VALIDATION, Reason.NOT_FOUND}


async def test_an_entry_that_cannot_be_read_is_named(batches: Batches, connection: Connection, names: Names) -> None:
    await connection.ask(names.state("low-1"), b"garbage")
    await batches.record("b1", ["low-1"])
    with pytest.raises(JobError, match="the entry of low-1 cannot be read"):
        await batches.status("b1")


async def test_without_streams_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    with pytest.raises(JobError, match="jsjobs streams apply"):
        await Batches(connection, Names(namespace), result_ttl=HOUR).status("b1")


async def test_ten_thousand_jobs_are_counted_in_few_round_trips(
    batches: Batches, queue: JobQueue, state: StateStore
) -> None:
    ids = await queue.publish_batch([queue.job(Priority.LOW, None, "t", b"1") for _ in range(10_000)])
    await batches.record("b1", ids)
    async with asyncio.timeout(20):
        status = await batches.status("b1")
    assert status.counts[Status.QUEUED] == 10_000
