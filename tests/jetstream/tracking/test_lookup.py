import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from opened import opened

from facts import eventually, subscriptions
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.headers import header_block
from jsjobs.jetstream.protocol.job_ids import plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.jetstream.tracking.lookup import Lookup
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.lanes import Queue

QUEUED = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t")
STARTED = QUEUED.started(utc_now(), "w")


@pytest.fixture
def lookup(connection: Connection, names: Names, state: StateStore) -> Lookup:
    return Lookup(connection, names, state)


async def test_a_queued_job_is_told_by_its_message(lookup: Lookup, queue: JobQueue) -> None:
    headers = {"Jsjobs-Entity": "e", "Jsjobs-Tenant": "acme", "Jsjobs-Batch": "b", "Jsjobs-Max-Attempts": "7"}
    job_id = await queue.publish(queue.job(Priority.HIGH, "e", "a.b", b"1", headers))
    status = await lookup.status(job_id)
    assert (status.job_id, status.status, status.type, status.priority) == (job_id, "queued", "a.b", "high")
    assert (status.entity, status.tenant, status.batch_id, status.max_attempts) == ("e", "acme", "b", 7)
    assert (status.attempts, status.history) == (0, ())
    assert status.created_at is not None
    assert abs((utc_now() - status.created_at).total_seconds()) < 5


@pytest.mark.parametrize(
    "header",
    [
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/1.0\r\nJsjobs-Max-Attempts: many\r\n\r\n",
        header_block({"Nats-Subject": "evil", "Nats-Time-Stamp": "never", "Nats-Sequence": "-1"}),
        header_block({"Nats-Subject": "a.b.c.d.e.f", "Nats-Time-Stamp": ""}),
    ],
)
async def test_a_queued_job_with_hostile_headers_is_told_too(
    lookup: Lookup, connection: Connection, names: Names, header: bytes
) -> None:
    reply = await connection.ask(names.submit(Priority.HIGH, "e", "t").encode(), b"1", header=header)
    job_id = plain_id(Queue(Priority.HIGH), json.loads(reply.data)["seq"])
    status = await lookup.status(job_id)
    assert (status.job_id, status.status, status.type) == (job_id, "queued", "t")


@pytest.mark.parametrize("job_id", ["high-7", "critical-9007199254740991", "at-x", "replay-1-x"])
async def test_an_unknown_id_is_not_found(lookup: Lookup, job_id: str) -> None:
    for attempt in (lookup.status(job_id), anext(lookup.watch(job_id)), anext(lookup.progress(job_id))):
        with pytest.raises(JobError, match=f"job {job_id} is not known") as caught:
            await attempt
        assert (caught.value.reason, caught.value.job_id) == (Reason.NOT_FOUND, job_id)


@pytest.mark.parametrize(
    "job_id", ["", "high", "high-7.x", "*", ">", "high-7 8", "high-7\r\nPUB x 0\r\n", "\ud800", "x" * 9999]
)
async def test_what_is_no_id_is_not_found_and_never_sent(lookup: Lookup, connection: Connection, job_id: str) -> None:
    for attempt in (lookup.status(job_id), anext(lookup.watch(job_id)), anext(lookup.progress(job_id))):
        with pytest.raises(JobError, match="is not a job id") as caught:
            await attempt
        assert caught.value.reason is Reason.NOT_FOUND
    await connection.flush()
    assert connection.reconnects == 0


async def test_an_expired_result_is_told_as_one(lookup: Lookup, state: StateStore) -> None:
    revision = await state.write(STARTED, expected=0)
    await state.write(STARTED.completed(utc_now()), expected=revision, ttl=1)
    assert (await lookup.status("high-7")).status == "complete"

    async def expired() -> bool:
        try:
            await lookup.status("high-7")
        except JobError as error:
            return error.reason is Reason.NOT_FOUND and "its result has expired" in error.message
        return False

    await eventually(expired)


async def test_a_message_that_carries_another_id_is_not_this_job(
    lookup: Lookup, connection: Connection, names: Names
) -> None:
    subject = names.submit(Priority.LOW, "e", "t").encode()
    await Schedules(connection, names).hand_over(subject, {"Jsjobs-Id": "replay-1-x"}, b"1")

    async def queued() -> dict[str, Any] | None:
        state = (await call(connection, f"STREAM.INFO.{names.stream(Priority.LOW)}"))["state"]
        return state if state["messages"] else None

    carrier = f"low-{(await eventually(queued))['last_seq']}"
    with pytest.raises(JobError, match="is not known") as caught:
        await lookup.status(carrier)
    assert caught.value.reason is Reason.NOT_FOUND


async def test_without_streams_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    names = Names(namespace)
    with pytest.raises(JobError, match="jsjobs streams apply"):
        await Lookup(connection, names, StateStore(connection, names)).status("high-7")


async def test_watching_yields_each_change_and_ends_with_the_job(
    lookup: Lookup, state: StateStore, connection: Connection
) -> None:
    revision = await state.write(QUEUED, expected=0)
    seen = []
    entry = QUEUED
    steps = [
        lambda e: e.started(utc_now(), "w"),
        lambda e: e.retried(utc_now(), "oops", due=utc_now(), retry=None),
        lambda e: e.started(utc_now(), "w"),
        lambda e: e.completed(utc_now()),
    ]
    async with aclosing(lookup.watch("high-7")) as changes:
        async for status in changes:
            seen.append(str(status.status))
            if steps:
                entry = steps.pop(0)(entry)
                revision = await state.write(entry, expected=revision)
    assert seen == ["queued", "processing", "queued", "processing", "complete"]
    assert subscriptions(connection) == 1, "only the inbox is still subscribed"


async def test_watching_ends_when_the_connection_is_closed(
    nats_server: NatsServer, names: Names, state: StateStore
) -> None:
    await state.write(STARTED, expected=0)
    async with opened(nats_server.url) as connection:
        changes = Lookup(connection, names, StateStore(connection, names)).watch("high-7")
        assert (await anext(changes)).status is Status.PROCESSING
    with pytest.raises(JobError, match="closed"):
        await asyncio.wait_for(anext(changes), 20)
