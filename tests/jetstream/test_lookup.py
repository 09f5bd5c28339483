import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest
from nats.aio.client import Client
from opened import opened

from facts import eventually
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.lookup import Lookup
from jsjobs.jetstream.progress import ProgressSender, ProgressUpdate
from jsjobs.jetstream.queue import JobQueue, Outgoing
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.jetstream.wire import header_block
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.settings import Config

QUEUED = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t")
STARTED = QUEUED.started(utc_now(), "w")


@pytest.fixture
def lookup(connection: Connection, names: Names, state: StateStore) -> Lookup:
    return Lookup(connection, names, state)


async def test_a_queued_job_is_told_by_its_message(lookup: Lookup, queue: JobQueue) -> None:
    headers = {"Jsjobs-Entity": "e", "Jsjobs-Tenant": "acme", "Jsjobs-Batch": "b", "Jsjobs-Max-Attempts": "7"}
    job_id = await queue.publish(Outgoing(queue.subject(Priority.HIGH, "e", "a.b"), b"1", headers))
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
    lookup: Lookup, connection: Connection, names: Names, queue: JobQueue, header: bytes
) -> None:
    reply = await connection.ask(names.submit(Priority.HIGH, "e", "t").encode(), b"1", header=header)
    job_id = queue._receipt(json.loads(reply.data))
    status = await lookup.status(job_id)
    assert (status.job_id, status.status, status.type) == (job_id, "queued", "t")


@pytest.mark.parametrize("job_id", ["high-7", "critical-9007199254740991", "at-x", "replay-1-x"])
async def test_an_unknown_id_is_not_found(lookup: Lookup, job_id: str) -> None:
    for attempt in (lookup.status(job_id), lookup.end(job_id, 5), anext(lookup.progress(job_id))):
        with pytest.raises(JobError, match=f"no job {job_id} is known") as caught:
            await attempt
        assert (caught.value.reason, caught.value.job_id) == (Reason.NOT_FOUND, job_id)


@pytest.mark.parametrize(
    "job_id", ["", "high", "high-7.x", "*", ">", "high-7 8", "high-7\r\nPUB x 0\r\n", "\ud800", "x" * 9999]
)
async def test_what_is_no_id_is_not_found_and_never_sent(lookup: Lookup, connection: Connection, job_id: str) -> None:
    for attempt in (lookup.status(job_id), anext(lookup.watch(job_id)), anext(lookup.progress(job_id))):
        with pytest.raises(JobError, match="is no job id") as caught:
            await attempt
        assert caught.value.reason is Reason.NOT_FOUND
    await connection.flush()
    assert connection.stats["reconnects"] == 0


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


async def test_a_message_that_carries_another_id_is_not_this_job(lookup: Lookup, queue: JobQueue) -> None:
    carrier = await queue.publish(Outgoing(queue.subject(Priority.LOW, None, "t"), b"1", {"Jsjobs-Id": "replay-1-x"}))
    with pytest.raises(JobError, match="no job") as caught:
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
    assert len(connection._subs) == 1, "only the inbox is still subscribed"


async def test_giving_up_a_watch_leaves_no_subscription(
    lookup: Lookup, state: StateStore, connection: Connection
) -> None:
    await state.write(STARTED, expected=0)
    with pytest.raises(JobError, match=r"job high-7 is processing after 0\.2 s") as caught:
        await lookup.end("high-7", 0.2)
    assert caught.value.reason is Reason.TIMEOUT
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await lookup.end("high-7", None)
    assert len(connection._subs) == 1
    assert len(connection._parser.receivers) == 1


async def test_waiting_for_the_end_goes_on_across_a_server_restart(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        config = Config(nats_url=server.url, queue_bytes=2**24)
        names = Names(config.namespace)
        async with opened(server.url) as connection, opened(server.url) as other:
            await Topology(connection, names, config).apply()
            state = StateStore(other, names)
            revision = await state.write(STARTED, expected=0)
            waiting = asyncio.ensure_future(Lookup(connection, names, StateStore(connection, names)).end("high-7", 60))
            await eventually(lambda: asyncio.sleep(0, len(connection._subs) == 2))
            server.kill()
            ending = asyncio.ensure_future(state.write(STARTED.completed(utc_now()), expected=revision, result=b"[1]"))
            server.start()
            await ending
            assert (await waiting).result == [1]


# -- progress


async def all_but_the_last_100_are_gone(connection: Connection, names: Names) -> bool:
    state = (await call(connection, f"STREAM.INFO.{names.progress_stream}"))["state"]
    return (state["messages"], state["last_seq"]) == (100, 130)


async def test_progress_gives_the_last_100_then_live_ones_and_ends_with_the_job(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names
) -> None:
    revision = await state.write(STARTED, expected=0)
    sender = ProgressSender(connection, names)
    for number in range(130):
        sender.send("high-7", ProgressUpdate(pct=number / 2, message=f"{number}", timestamp=utc_now()))
    # Stored without a receipt: the last one is there when the first thirty are gone.
    await eventually(lambda: all_but_the_last_100_are_gone(connection, names))
    seen = []
    async with aclosing(lookup.progress("high-7")) as updates:
        async for update in updates:
            seen.append(update.message)
            if update.message == "129":
                sender.send("high-7", ProgressUpdate(pct=99, message="live", timestamp=utc_now()))
            if update.message == "live":
                sender.send("high-7", ProgressUpdate(pct=100, message="last", timestamp=utc_now()))
                await connection.flush()
                await state.write(STARTED.completed(utc_now()), expected=revision)
    assert seen == [*(str(number) for number in range(30, 130)), "live", "last"]
    kept = [update.message async for update in lookup.progress("high-7")]
    assert kept[-2:] == ["live", "last"]
    assert len(kept) == 100
    assert len(connection._subs) == 1


async def test_what_strangers_put_among_the_updates_is_passed_over_and_hides_none(
    lookup: Lookup,
    state: StateStore,
    connection: Connection,
    names: Names,
    plain: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await state.write(STARTED, expected=0)
    looked, next_update = [0], lookup._next_update

    async def noted(*arguments: object) -> tuple[ProgressUpdate | None, int]:
        answer = await next_update(*arguments)
        looked.append(answer[1])
        return answer

    monkeypatch.setattr(lookup, "_next_update", noted)
    sender, js, subject = ProgressSender(connection, names), plain.jetstream(), names.progress("high-7").decode()
    seen: list[str | None] = []

    async def follow() -> None:
        async with aclosing(lookup.progress("high-7")) as updates:
            async for update in updates:
                seen.extend([update.message])

    following = asyncio.ensure_future(follow())
    await eventually(lambda: asyncio.sleep(0, len(connection._subs) == 3))
    for number in range(10):
        ack = await js.publish(subject, b"garbage", headers={"Nats-Sequence": "1"})
        await eventually(lambda ack=ack: asyncio.sleep(0, max(looked) >= ack.seq))
        update = ProgressUpdate(pct=number, message=f"{number}", timestamp=utc_now())
        if number % 2:
            sender.send("high-7", update)
        else:
            await js.publish(subject, update.model_dump_json().encode(), headers={"Nats-Sequence": "1"})
        await eventually(lambda number=number: asyncio.sleep(0, seen[-1:] == [f"{number}"]))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert seen == [f"{number}" for number in range(10)]


async def test_a_chatty_handler_is_joined_and_its_last_report_kept(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names
) -> None:
    await state.write(STARTED.completed(utc_now()), expected=0)
    reporter = ProgressSender(connection, names).reporter("high-7")
    for number in range(1001):
        reporter.report(number / 10, f"{number}")
    await asyncio.to_thread(reporter.report, 100, "from a thread")
    await asyncio.sleep(0)
    reporter.close()
    await connection.flush()
    messages = [update.message async for update in lookup.progress("high-7")]
    assert messages[0] == "0"
    assert messages[-1] == "from a thread"
    assert len(messages) <= 6
