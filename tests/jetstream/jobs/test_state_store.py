import asyncio
import json

import pytest
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from facts import broken, eventually
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed
from jsjobs.jetstream.jobs.state_store import Conflict, StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, utc_now
from tcp_proxy import TcpProxy

QUEUED = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t")
STARTED = QUEUED.started(utc_now(), "w")


def is_write(data: bytes) -> bool:
    return b"Jsjobs-Writer" in data


def is_ack(data: bytes) -> bool:
    return b'"stream":"KV_' in data


async def headers_of(plain: Client, names: Names, job_id: str) -> dict[str, str]:
    message = await plain.jetstream().get_last_msg(names.state_stream, f"$KV.{names.bucket}.{job_id}")
    return message.headers or {}


async def test_what_was_written_is_read(state: StateStore) -> None:
    assert await state.read("high-7") is None
    revision = await state.write(STARTED, expected=0)
    found = await state.read("high-7")
    assert found is not None
    assert (found.entry, found.revision) == (STARTED, revision)
    assert abs((utc_now() - found.stored_at).total_seconds()) < 5
    later = await state.write(text_of(STARTED.completed(utc_now()), b'{"a":[1]}'), expected=revision)
    assert later > revision
    found = await state.read("high-7")
    assert found is not None
    assert found.entry is not None
    assert found.entry.result == {"a": [1]}


@pytest.mark.parametrize("offset", [-1, 1, None])
async def test_any_other_revision_is_a_conflict_and_changes_nothing(state: StateStore, offset: int | None) -> None:
    revision = await state.write(QUEUED, expected=0)
    with pytest.raises(Conflict, match="high-7 was changed by another process"):
        await state.write(STARTED, expected=0 if offset is None else revision + offset)
    found = await state.read("high-7")
    assert found is not None
    assert (found.entry, found.revision) == (QUEUED, revision)


async def test_a_first_write_expects_that_there_is_none(state: StateStore) -> None:
    with pytest.raises(Conflict):
        await state.write(QUEUED, expected=1)
    assert await state.read("high-7") is None


async def test_of_many_racing_writers_one_wins(connection: Connection, names: Names) -> None:
    stores = [StateStore(connection, names) for _ in range(20)]
    entries = [QUEUED.started(utc_now(), f"w{number}") for number in range(20)]
    for expected in (0, None):
        revision = expected
        if revision is None:
            found = await stores[0].read("high-7")
            assert found is not None
            revision = found.revision
        ends = await asyncio.gather(
            *(store.write(entry, expected=revision) for store, entry in zip(stores, entries, strict=True)),
            return_exceptions=True,
        )
        won = [entry for entry, end in zip(entries, ends, strict=True) if isinstance(end, int)]
        assert sum(isinstance(end, Conflict) for end in ends) == 19
        found = await stores[0].read("high-7")
        assert found is not None
        assert [found.entry] == won


async def test_only_what_is_to_expire_has_a_time_to_live(state: StateStore, names: Names, plain: Client) -> None:
    revision = await state.write(STARTED, expected=0)
    assert "Nats-TTL" not in await headers_of(plain, names, "high-7")
    await state.write(STARTED.completed(utc_now()), expected=revision, ttl=3600)
    assert (await headers_of(plain, names, "high-7"))["Nats-TTL"] == "3600s"


async def test_an_expired_entry_leaves_a_marker_and_the_first_write_fails_on_it(
    state: StateStore, names: Names, plain: Client
) -> None:
    revision = await state.write(STARTED, expected=0)
    revision = await state.write(STARTED.completed(utc_now()), expected=revision, ttl=1)

    async def marker() -> object:
        found = await state.read("high-7")
        return found is not None and found.entry is None and found

    found = await eventually(marker)
    assert found.revision > revision
    assert not found.is_deleted
    with pytest.raises(Conflict):
        await state.write(STARTED, expected=0)
    with pytest.raises(Conflict):
        await state.write(STARTED, expected=revision)
    bucket = await plain.jetstream().key_value(names.bucket)
    entry = await bucket.get("high-7")
    assert not entry.value


@pytest.mark.parametrize("how", ["delete", "purge", "stream purge"])
async def test_a_deleted_entry_is_told_from_an_expired_one(
    how: str, state: StateStore, names: Names, plain: Client
) -> None:
    revision = await state.write(STARTED, expected=0)
    stream = plain.jetstream()
    if how == "stream purge":
        await stream.purge_stream(names.state_stream, subject=f"$KV.{names.bucket}.high-7")
    else:
        bucket = await stream.key_value(names.bucket)
        await getattr(bucket, how)("high-7")
    found = await state.read("high-7")
    if found is not None:
        assert (found.entry, found.writer, found.is_deleted) == (None, None, True)
        assert found.revision > revision
    await state.write(STARTED, expected=found.revision if found else 0)


# -- what gets lost


async def test_a_lost_acknowledgement_is_no_lost_race(
    proxy: TcpProxy, far: Connection, names: Names, state: StateStore
) -> None:
    proxy.cut_before_answer(is_ack)
    revision = await StateStore(far, names).write(STARTED, expected=0)
    assert proxy.lost
    assert str(revision).encode() in proxy.lost[0], "it was stored the first time, and not again"
    found = await state.read("high-7")
    assert found is not None
    assert (found.revision, found.entry) == (revision, STARTED)


async def test_a_lost_write_is_written_again(proxy: TcpProxy, far: Connection, names: Names, state: StateStore) -> None:
    proxy.cut_before_request(is_write)
    revision = await StateStore(far, names).write(STARTED, expected=0)
    assert is_write(proxy.lost[0])
    found = await state.read("high-7")
    assert found is not None
    assert (found.revision, found.entry) == (revision, STARTED)


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_foreign_write_meanwhile_is_a_conflict(
    proxy: TcpProxy, far: Connection, names: Names, state: StateStore, lost: str
) -> None:
    revision = await state.write(QUEUED, expected=0)
    proxy.deaf = True
    (proxy.cut_before_request if lost == "request" else proxy.cut_before_answer)(
        is_write if lost == "request" else is_ack
    )
    writing = asyncio.ensure_future(StateStore(far, names).write(STARTED, expected=revision))
    await eventually(lambda: proxy.lost)
    found = await state.read("high-7")
    assert found is not None
    assert (found.entry == STARTED) is (lost == "answer")
    cancelled = (found.entry or QUEUED).cancelled(utc_now())
    await state.write(cancelled, expected=found.revision)
    proxy.deaf = False
    with pytest.raises(Conflict):
        await writing
    found = await state.read("high-7")
    assert found is not None
    assert found.entry == cancelled


async def test_a_write_in_the_moment_of_a_break_is_made_on_the_next_connection(
    proxy: TcpProxy, far: Connection, names: Names, state: StateStore
) -> None:
    proxy.cut()
    await broken(far)
    async with asyncio.timeout(10):
        revision = await StateStore(far, names).write(STARTED, expected=0)
    found = await state.read("high-7")
    assert found is not None
    assert found.revision == revision


async def test_a_write_on_a_closed_connection_ends(far: Connection, names: Names) -> None:
    await far.close()
    with pytest.raises(ConnectionClosed):
        await StateStore(far, names).write(STARTED, expected=0)


# -- what cannot be


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        b"{}",
        b"[]",
        b'{"job_id": "high-7", "status": "eaten"}',
        b'{"job_id": "high-8", "status": "queued"}',
        b"\xff\x00",
    ],
)
async def test_an_entry_that_cannot_be_read_is_a_job_error(
    state: StateStore, names: Names, plain: Client, value: bytes
) -> None:
    bucket = await plain.jetstream().key_value(names.bucket)
    await bucket.put("high-7", value)
    found = await state.read("high-7")
    assert found is not None
    with pytest.raises(JobError, match="cannot be read") as caught:
        _ = found.entry
    assert caught.value.reason is Reason.VALIDATION
    assert f"$KV.{names.bucket}.high-7 " in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_strangers_headers_on_an_entry_do_not_pass_for_the_servers(
    state: StateStore, names: Names, plain: Client
) -> None:
    hostile = {"Nats-Sequence": "1", "Nats-Time-Stamp": "never"}
    ack = await plain.jetstream().publish(f"$KV.{names.bucket}.high-7", QUEUED.to_json(), headers=hostile)
    found = await state.read("high-7")
    assert found is not None
    assert found.revision == ack.seq


async def test_an_entry_that_is_too_large_is_refused_and_nothing_is_written(state: StateStore) -> None:
    with pytest.raises(JobError, match="max_payload") as caught:
        await state.write(text_of(STARTED, b'"' + b"x" * 2**20 + b'"'), expected=0)
    assert caught.value.reason is Reason.VALIDATION
    assert await state.read("high-7") is None


async def test_without_a_bucket_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    state = StateStore(connection, Names(namespace))
    for attempt in (state.read("high-7"), state.write(STARTED, expected=0)):
        with pytest.raises(JobError, match="jsjobs streams apply") as caught:
            await attempt
        assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


async def test_plain_clients_get_watch_and_update_it(state: StateStore, names: Names, plain: Client) -> None:
    bucket = await plain.jetstream().key_value(names.bucket)
    with pytest.raises(KeyNotFoundError):
        await bucket.get("high-7")
    watcher = await bucket.watch("high-7")
    assert await watcher.updates(timeout=5) is None, "nothing was there"
    revision = await state.write(STARTED, expected=0)
    update = await watcher.updates(timeout=5)
    assert update is not None
    assert (update.revision, json.loads(update.value or b"")["status"]) == (revision, "processing")
    await watcher.stop()
    entry = await bucket.get("high-7")
    assert (entry.revision, entry.value) == (revision, STARTED.to_json())
    with pytest.raises(KeyWrongLastSequenceError):
        await bucket.update("high-7", b"{}", last=revision + 1)
    cancelled = STARTED.cancelled(utc_now())
    updated = await bucket.update("high-7", cancelled.to_json(), last=revision)
    found = await state.read("high-7")
    assert found is not None
    assert (found.entry, found.revision, found.writer) == (cancelled, updated, None)
    with pytest.raises(Conflict):
        await state.write(STARTED.completed(utc_now()), expected=revision)


async def test_a_stream_without_a_leader_for_a_moment_costs_no_outcome(
    state: StateStore, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subject has no listener until the next leader is elected."""
    ask_soon, refusals = connection.ask_soon, 3

    def electing(subject: bytes, *args: object, **kwargs: object) -> object:
        nonlocal refusals
        if subject.startswith(b"$KV.") and refusals:
            refusals -= 1
            return ask_soon(b"nobody.listens", *args, **kwargs)  # type: ignore[arg-type]
        return ask_soon(subject, *args, **kwargs)  # type: ignore[arg-type]

    revision = await state.write(STARTED, expected=0)
    monkeypatch.setattr(connection, "ask_soon", electing)
    assert await state.write(STARTED.completed(utc_now()), expected=revision) > revision


async def test_a_replica_that_lags_behind_makes_no_conflict_of_a_lost_acknowledgement(
    names: Names, far: Connection, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(far, names)
    first = await store.write(QUEUED, expected=0)
    old = await far.ask(f"$JS.API.DIRECT.GET.{names.state_stream}.$KV.{names.bucket}.high-7".encode())
    second = await store.write(STARTED, expected=first)
    ask, stale = far.ask, 2

    async def lagging(subject: bytes, *args: object, **kwargs: object) -> object:
        nonlocal stale
        if b"DIRECT.GET" in subject and stale:
            stale -= 1
            await far.when_up()
            return old
        return await ask(subject, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(far, "ask", lagging)
    proxy.cut_before_answer(is_ack)
    stale = 1
    third = await store.write(STARTED.completed(utc_now()), expected=second)
    assert third > second
