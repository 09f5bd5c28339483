"""Following progress: what is kept, then live updates, none twice, none lost that the server keeps."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from nats.aio.client import Client
from opened import opened

from facts import eventually, subscriptions
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.progress import ProgressSender
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.headers import header_block
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.tracking.lookup import Lookup
from jsjobs.jetstream.tracking.progress_feed import follow_progress
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, ProgressUpdate, Status, utc_now
from jsjobs.settings import Config
from taps import Ear
from tcp_proxy import TcpProxy

STARTED = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t").started(utc_now(), "w")


def update(number: float, message: str | None = None) -> ProgressUpdate:
    return ProgressUpdate(pct=number, message=message or f"{number}", timestamp=utc_now())


@pytest.fixture
def lookup(connection: Connection, names: Names, state: StateStore) -> Lookup:
    return Lookup(connection, names, state)


@pytest.fixture
async def sender(connection: Connection, names: Names) -> ProgressSender:
    return ProgressSender(connection, names)


class Follower:
    """Follows in the background."""

    def __init__(self, progress: Callable[[str], AsyncGenerator[ProgressUpdate, None]]) -> None:
        self.seen: list[str | None] = []
        self.task = asyncio.ensure_future(self._follow(progress))

    async def _follow(self, progress: Callable[[str], AsyncGenerator[ProgressUpdate, None]]) -> None:
        async with aclosing(progress("high-7")) as updates:
            async for one in updates:
                self.seen.append(one.message)

    async def sees(self, message: str) -> None:
        await eventually(lambda: self.seen[-1:] == [message])


async def all_but_the_last_100_are_gone(connection: Connection, names: Names, sent: int = 130) -> bool:
    state = (await call(connection, f"STREAM.INFO.{names.progress_stream}"))["state"]
    return (state["messages"], state["last_seq"]) == (100, sent)


async def test_progress_gives_the_last_100_then_live_ones_and_ends_with_the_job(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, sender: ProgressSender
) -> None:
    revision = await state.write(STARTED, expected=0)
    for number in range(130):
        sender.send("high-7", update(number / 2, f"{number}"))
    # Stored without a receipt: the last one is there when the first thirty are gone.
    await eventually(lambda: all_but_the_last_100_are_gone(connection, names))
    seen = []
    async with aclosing(lookup.progress("high-7")) as updates:
        async for one in updates:
            seen.append(one.message)
            if one.message == "129":
                sender.send("high-7", update(99, "live"))
            if one.message == "live":
                sender.send("high-7", update(100, "last"))
                await connection.flush()
                await state.write(STARTED.completed(utc_now()), expected=revision)
    assert seen == [*(str(number) for number in range(30, 130)), "live", "last"]
    kept = [one.message async for one in lookup.progress("high-7")]
    assert kept[-2:] == ["live", "last"]
    assert len(kept) == 100
    assert subscriptions(connection) == 1
    assert connection.on_reconnect == []


async def test_what_strangers_put_among_the_updates_is_passed_over_and_hides_none(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, plain: Client, sender: ProgressSender
) -> None:
    await state.write(STARTED, expected=0)
    js, subject = plain.jetstream(), names.progress("high-7").decode()
    forged = [b"garbage", b"", b"[]", b'{"pct": 101, "timestamp": "2026-01-01T00:00:00Z"}', b'{"pct": NaN}', b"\xff"]
    first = Follower(lookup.progress)
    await eventually(lambda: subscriptions(connection) == 3)
    for number in range(12):
        await js.publish(subject, forged[number % len(forged)], headers={"Nats-Sequence": "1"})
        if number % 2:
            sender.send("high-7", update(number))
        else:
            await js.publish(subject, update(number).model_dump_json().encode(), headers={"Nats-Sequence": "1"})
        await first.sees(f"{number}")
    late = Follower(lookup.progress)
    await late.sees("11")
    for follower in (first, late):
        assert follower.seen == [f"{number}" for number in range(12)]
        follower.task.cancel()
    await asyncio.gather(first.task, late.task, return_exceptions=True)
    await eventually(lambda: subscriptions(connection) == 1)


async def test_updates_that_no_subscription_brought_are_told_at_the_end(
    lookup: Lookup,
    state: StateStore,
    connection: Connection,
    names: Names,
    sender: ProgressSender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revision = await state.write(STARTED, expected=0)
    ear = Ear(connection, names.progress("high-7"), monkeypatch)
    follower = Follower(lookup.progress)
    sender.send("high-7", update(1, "first"))
    await follower.sees("first")
    ear.instead = lambda *_: None  # as a node that does not know of the subscription yet
    for number in range(30):
        sender.send("high-7", update(number, f"unheard {number}"))
    await state.write(STARTED.completed(utc_now()), expected=revision)
    await asyncio.wait_for(follower.task, 20)
    assert follower.seen == ["first", *(f"unheard {number}" for number in range(30))]


async def test_after_an_outage_what_was_missed_is_told_before_what_is_live(
    nats_server: NatsServer, connection: Connection, names: Names, sender: ProgressSender
) -> None:
    looks: list[bool] = []
    fails = False

    async def ended() -> bool:
        looks.append(fails)
        if fails:
            raise ConnectionLost("no answer")
        return False

    async with TcpProxy(nats_server.url) as proxy, opened(proxy.url) as far:
        follower = Follower(lambda job_id: follow_progress(far, names, job_id, ended))
        sender.send("high-7", update(1, "first"))
        await follower.sees("first")
        fails, proxy.deaf = True, True
        proxy.cut()
        sender.send("high-7", update(2, "missed"))
        await connection.flush()
        proxy.deaf = False
        await eventually(lambda: looks[-1])
        await far.flush()
        sender.send("high-7", update(3, "live"))
        await eventually(lambda: sum(looks) >= 3)
        fails = False
        await follower.sees("live")
        assert follower.seen == ["first", "missed", "live"]
        follower.task.cancel()
        await asyncio.gather(follower.task, return_exceptions=True)


async def test_what_is_live_before_a_new_connection_is_told_of_comes_after_what_was_missed(
    nats_server: NatsServer,
    lookup: Lookup,
    state: StateStore,
    connection: Connection,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await state.write(STARTED, expected=0)
    ear = Ear(connection, names.progress("high-7"), monkeypatch)
    follower = Follower(lookup.progress)
    async with opened(nats_server.url) as other:
        sender, heard = ProgressSender(other, names), []
        sender.send("high-7", update(1, "first"))
        await follower.sees("first")
        ear.instead = lambda *_: heard.append("missed")
        sender.send("high-7", update(2, "missed"))
        await eventually(lambda: heard)
        ear.instead = None
        await connection.receive(names.progress("high-7"), lambda *_: heard.append("live"))
        await connection.flush()
        with monkeypatch.context() as broken:
            broken.setattr(Connection, "is_up", False)  # as from the break on, until it is told of
            sender.send("high-7", update(3, "live"))
            await eventually(lambda: heard[-1] == "live")
            await asyncio.sleep(0)
        for told in connection.on_reconnect:
            told()
        await follower.sees("live")
        assert follower.seen == ["first", "missed", "live"]
        follower.task.cancel()
        await asyncio.gather(follower.task, return_exceptions=True)


async def test_the_same_update_again_is_told_as_often_as_it_is_kept(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, plain: Client
) -> None:
    revision = await state.write(STARTED, expected=0)
    js, subject = plain.jetstream(), names.progress("high-7").decode()
    same = update(50, "same").model_dump_json().encode()
    await js.publish(subject, same)
    follower = Follower(lookup.progress)
    await follower.sees("same")
    await js.publish(subject, same)
    await js.publish(subject, same)
    await state.write(STARTED.completed(utc_now()), expected=revision)
    await asyncio.wait_for(follower.task, 20)
    assert follower.seen == ["same"] * 3


async def test_a_server_restart_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        config = Config(nats_url=server.url, queue_bytes=2**24)
        names = Names(config.namespace)
        async with opened(server.url) as connection, opened(server.url) as other:
            await TopologyReconciler(connection, names, config).apply()
            state, sender = StateStore(other, names), ProgressSender(other, names)
            revision = await state.write(STARTED, expected=0)
            follower = Follower(Lookup(connection, names, StateStore(connection, names)).progress)
            expected = []
            for crash in range(3):
                for number in range(5):
                    expected.append(f"{crash}.{number}")
                    body = update(number, expected[-1]).model_dump_json().encode()
                    header = header_block({"Nats-Msg-Id": expected[-1]})  # so that an ask cut short may be repeated
                    await eventually(
                        lambda body=body, header=header: other.ask(names.progress("high-7"), body, header=header)
                    )
                if crash < 2:
                    await follower.sees(expected[-1])
                    server.kill()
                    server.start()
            sender.send("high-7", update(100, "last"))
            await state.write(STARTED.completed(utc_now()), expected=revision)
            await asyncio.wait_for(follower.task, 30)
    assert follower.seen == [*expected, "last"]


async def test_following_ends_when_the_connection_is_closed(tmp_path: Path, nats_server: NatsServer) -> None:
    config = Config(nats_url=nats_server.url, namespace="feedclosed", queue_bytes=2**24)
    names = Names(config.namespace)
    async with opened(nats_server.url) as connection:
        await TopologyReconciler(connection, names, config).apply()
        state = StateStore(connection, names)
        await state.write(STARTED, expected=0)
        follower = Follower(Lookup(connection, names, state).progress)
        ProgressSender(connection, names).send("high-7", update(1, "first"))
        await follower.sees("first")
    with pytest.raises(JobError) as caught:
        await asyncio.wait_for(follower.task, 20)
    assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


async def test_100_followers_of_one_job_cost_little(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, sender: ProgressSender
) -> None:
    revision = await state.write(STARTED, expected=0)
    sender.send("high-7", update(0, "kept"))
    followers = [Follower(lookup.progress) for _ in range(100)]
    for follower in followers:
        await follower.sees("kept")
    begun = time.process_time()
    for number in range(60):
        sender.send("high-7", update(number))
        await asyncio.sleep(0.05)
    used = time.process_time() - begun
    await state.write(STARTED.completed(utc_now()), expected=revision)
    await asyncio.gather(*(follower.task for follower in followers))
    expected = ["kept", *(f"{number}" for number in range(60))]
    assert all(follower.seen == expected for follower in followers)
    assert subscriptions(connection) == 1
    # Reading the server for each update would take more time than there is.
    assert used < 2.0, f"{used:.2f} s of work in 3 s"


@pytest.mark.parametrize("job_id", [5, None, b"high-7", ["high-7"]])
async def test_what_is_no_text_is_refused(lookup: Lookup, connection: Connection, job_id: object) -> None:
    with pytest.raises(JobError, match="a job id must be a string") as caught:
        await anext(lookup.progress(job_id))
    assert caught.value.reason is Reason.VALIDATION
    assert subscriptions(connection) == 1


async def test_without_streams_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    names = Names(namespace)
    with pytest.raises(JobError, match="jsjobs streams apply"):
        await anext(Lookup(connection, names, StateStore(connection, names)).progress("high-7"))


async def test_without_its_stream_the_error_says_so(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names
) -> None:
    await state.write(STARTED, expected=0)
    await call(connection, f"STREAM.DELETE.{names.progress_stream}")
    with pytest.raises(JobError, match=f"{names.progress_stream} does not exist: run `jsjobs streams apply`") as caught:
        await anext(lookup.progress("high-7"))
    assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


async def test_of_a_flood_none_is_told_twice_and_the_kept_ones_all(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, sender: ProgressSender
) -> None:
    revision = await state.write(STARTED, expected=0)
    follower = Follower(lookup.progress)
    sender.send("high-7", update(0, "first"))
    await follower.sees("first")
    for number in range(5000):
        sender.send("high-7", update(number % 100, f"{number}"))
    await follower.sees("4999")
    await state.write(STARTED.completed(utc_now()), expected=revision)
    await asyncio.wait_for(follower.task, 30)
    assert len(set(follower.seen)) == len(follower.seen)
    assert follower.seen[-100:] == [f"{number}" for number in range(4900, 5000)]


async def test_a_slow_reader_is_told_more_than_is_kept_in_order(
    lookup: Lookup, state: StateStore, connection: Connection, names: Names, sender: ProgressSender
) -> None:
    revision = await state.write(STARTED, expected=0)
    sender.send("high-7", update(0, "first"))
    async with aclosing(lookup.progress("high-7")) as updates:
        seen = [(await anext(updates)).message]
        for number in range(300):
            sender.send("high-7", update(number % 100, f"{number}"))
        await eventually(lambda: all_but_the_last_100_are_gone(connection, names, 301))
        await asyncio.sleep(1.3)  # the next look at what is kept is due, and finds the last 100 of those that wait here
        await state.write(STARTED.completed(utc_now()), expected=revision)
        seen += [one.message async for one in updates]
    assert seen == ["first", *(f"{number}" for number in range(300))]
