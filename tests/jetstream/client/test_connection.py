"""The hardened connection against real servers: what a stranger sends, what a server says, and what is lost."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from opened import opened

from facts import eventually
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.endpoints import changes_nothing
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, NoResponders, TooLarge
from jsjobs.jetstream.client.line import TcpLine
from jsjobs.jetstream.protocol.headers import header_block
from jsjobs.model.errors import JobError, Reason
from old_server import VERSION, old_server
from tcp_proxy import TcpProxy

MALFORMED = b"NATS/1.0"


async def raw_publish(url: str, subject: bytes, header: bytes, body: bytes) -> None:
    """What anybody with a socket can do."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true,"lang":"sh","version":"0"}\r\n')
    writer.write(b"HPUB %b %d %d\r\n%b%b\r\nPING\r\n" % (subject, len(header), len(header + body), header, body))
    assert await reader.readline() == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()


class Inbox:
    """A receiver that keeps what it takes."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes, bytes, bytes]] = []

    def __call__(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        self.taken.append((subject, reply, header, data))

    @property
    def bodies(self) -> list[bytes]:
        return [data for _, _, _, data in self.taken]

    async def has(self, *bodies: bytes) -> None:
        async def look() -> bool:
            return self.bodies == list(bodies)

        await eventually(look)


@pytest.fixture
async def proxied(nats_server: NatsServer) -> AsyncIterator[tuple[TcpProxy, Connection]]:
    async with TcpProxy(nats_server.url) as proxy, opened(proxy.url) as connection:
        yield proxy, connection


async def echo(connection: Connection, subject: str) -> None:
    def answer(_subject: bytes, reply: bytes, _header: bytes, data: bytes) -> None:
        connection.post(reply, data)

    await connection.receive(subject.encode(), answer)


async def came_back(connection: Connection, times: int = 1) -> None:
    async def look() -> bool:
        return connection.reconnects == times and connection._up.is_set()

    await eventually(look)


# -- what a stranger sends


async def test_a_malformed_header_block_silently_ends_plain_nats_py(
    nats_server: NatsServer, plain: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Why the connection replaces parts of nats-py; if this fails after an upgrade, some of them may go."""
    got: list[bytes] = []

    async def keep(message: nats.aio.msg.Msg) -> None:
        got.append(message.data)

    await plain.subscribe(namespace, cb=keep)
    await plain.flush()
    assert plain._reading_task is not None
    await raw_publish(nats_server.url, namespace.encode(), MALFORMED, b"poison")
    await eventually(plain._reading_task.done)
    await raw_publish(nats_server.url, namespace.encode(), b"NATS/1.0\r\n\r\n", b"after")
    with pytest.raises(nats_errors.TimeoutError):
        await plain.request("nobody.listens.here", b"", timeout=0.3)
    assert got == []
    assert plain.is_connected, "and it does not even say so"
    assert "IndexError" in caplog.text


async def test_ours_takes_a_malformed_header_block_as_it_is(
    nats_server: NatsServer, connection: Connection, namespace: str
) -> None:
    inbox = Inbox()
    await connection.receive(namespace.encode(), inbox)
    await connection.flush()
    for header, body in ((MALFORMED, b"1"), (b"NATS/1.0\r\n", b"2"), (b"NATS/1.0\r\nx", b"3"), (b"\xff\r\n\0", b"4")):
        await raw_publish(nats_server.url, namespace.encode(), header, body)
    await inbox.has(b"1", b"2", b"3", b"4")
    assert inbox.taken[0] == (namespace.encode(), b"", MALFORMED, b"1")
    assert connection.reconnects == 0


@pytest.mark.parametrize("token", [b"\x0b", b"\x0c\x1c", b"\xff\xfe", b"\xc2\x85"])
async def test_hostile_subjects_are_subjects_like_any_other(
    nats_server: NatsServer, connection: Connection, namespace: str, token: bytes
) -> None:
    inbox, subject = Inbox(), namespace.encode() + b"." + token
    await connection.receive(f"{namespace}.*".encode(), inbox)
    await connection.flush()
    await raw_publish(nats_server.url, subject, b"NATS/1.0\r\n\r\n", b"x")
    await inbox.has(b"x")
    assert [taken[0] for taken in inbox.taken] == [subject]


# -- requests and subscriptions


async def test_asks_under_way_together_get_their_own_answers(connection: Connection, namespace: str) -> None:
    await echo(connection, namespace)
    bodies = [b"%d" % number for number in range(2000)]
    replies = await asyncio.gather(*(connection.ask(namespace.encode(), body) for body in bodies))
    assert [reply.data for reply in replies] == bodies
    assert connection._answers._waiting == {}


async def test_a_reply_subject_serves_again_only_once_it_was_answered(connection: Connection, namespace: str) -> None:
    asked: list[bytes] = []

    def answer(_subject: bytes, reply: bytes, _header: bytes, data: bytes) -> None:
        asked.append(reply)
        if data != b"silence":
            connection.post(reply, data)

    subject = namespace.encode()
    await connection.receive(subject, answer)
    for body in (b"1", b"2", b"3"):
        assert (await connection.ask(subject, body, once=True)).data == body
    assert len(set(asked)) == 1
    with pytest.raises(ConnectionLost):
        await connection.ask(subject, b"silence", timeout=0.1, once=True)
    silent = asked[-1]
    later = [connection.ask_soon(subject, b"%d" % number, once=True) for number in range(20)]
    connection.post(silent, b"a late answer, which is nobody's")
    assert [reply.data for reply in await asyncio.gather(*later)] == [b"%d" % number for number in range(20)]
    assert silent not in asked[4:]
    assert len(set(asked[4:])) == 20


async def test_nobody_there_and_nobody_answering_are_told_apart(connection: Connection, namespace: str) -> None:
    with pytest.raises(NoResponders):
        await connection.ask(namespace.encode())
    await connection.receive(namespace.encode(), Inbox())
    with pytest.raises(ConnectionLost, match="did not answer in time"):
        await connection.ask(namespace.encode(), timeout=0.1)


async def test_a_question_that_is_lost_is_asked_again(connection: Connection, namespace: str) -> None:
    asked: list[bytes] = []

    def answer(_subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        asked.append(header + data)
        if len(asked) == 2:
            connection.post(reply, b"at last")
            connection.post(reply, b"and once more, to nobody")

    await connection.receive(namespace.encode(), answer)
    header = b"NATS/1.0\r\nA: b\r\n\r\n"
    reply = await connection.ask(namespace.encode(), b"?", header=header, timeout=30, again=True)
    assert reply.data == b"at last"
    assert asked == [header + b"?"] * 2
    assert connection._answers._waiting == {}


async def test_a_question_is_asked_again_ever_less_often_and_given_up_in_time(
    connection: Connection, namespace: str
) -> None:
    asked: list[bytes] = []
    await connection.receive(namespace.encode(), lambda *message: asked.append(message[3]))
    patient = connection.ask_soon(namespace.encode(), b"again", timeout=6, again=True)
    once = connection.ask_soon(namespace.encode(), b"once", timeout=6)
    for future in (patient, once):
        with pytest.raises(ConnectionLost, match="did not answer in time"):
            await future
    assert asked.count(b"once") == 1
    assert asked.count(b"again") == 3  # at 0, 1.5 and 4.5 s


@pytest.mark.parametrize("endpoint", ["INFO", "STREAM.INFO.A", "STREAM.MSG.GET.A", "CONSUMER.LIST.A"])
def test_what_changes_nothing_may_be_asked_again(endpoint: str) -> None:
    assert changes_nothing(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "STREAM.CREATE.A",
        "STREAM.UPDATE.A",
        "STREAM.PURGE.A",
        "STREAM.MSG.DELETE.A",
        "CONSUMER.PAUSE.A.INFO",
        "CONSUMER.DELETE.A.B",
    ],
)
def test_a_change_is_asked_for_once(endpoint: str) -> None:
    assert not changes_nothing(endpoint)


async def test_cancelled_asks_leave_nothing_that_breaks_later(connection: Connection, namespace: str) -> None:
    asked: list[bytes] = []
    await connection.receive(namespace.encode(), lambda _s, reply, _h, _d: asked.append(reply))
    tasks = [asyncio.ensure_future(connection.ask(namespace.encode(), timeout=0.3)) for _ in range(20)]
    await eventually(lambda: len(asked) == 20)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    for reply in asked[:10]:
        connection.post(reply, b"too late")
        connection.post(reply, b"and twice")
    await eventually(lambda: not connection._answers._waiting)
    assert connection.reconnects == 0
    await echo(connection, f"{namespace}.echo")
    assert (await connection.ask(f"{namespace}.echo".encode(), b"fine")).data == b"fine"


async def test_a_flush_that_was_given_up_costs_no_connection(connection: Connection, namespace: str) -> None:
    for _ in range(5):
        flushing = asyncio.ensure_future(connection.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    await connection.flush()
    assert connection.reconnects == 0
    assert connection.is_connected
    await echo(connection, namespace)
    assert (await connection.ask(namespace.encode(), b"x")).data == b"x"


async def test_a_subscription_that_is_refused_leaves_no_receiver_for_the_next_one(
    connection: Connection, namespace: str
) -> None:
    wrong, right = Inbox(), Inbox()
    for subject in (b"not a subject", b"a..b", b"a\r\nPUB b 0\r\n", b""):
        with pytest.raises(JobError, match="is not a subject"):
            await connection.receive(subject, wrong)
    await connection.receive(namespace.encode(), right)
    connection.post(namespace.encode(), b"x")
    await right.has(b"x")
    assert wrong.taken == []
    assert connection.reconnects == 0


async def test_what_was_sent_before_unsubscribing_has_come_when_it_returns(
    connection: Connection, namespace: str
) -> None:
    inbox = Inbox()
    sid = await connection.receive(namespace.encode(), inbox)
    for _ in range(100):
        connection.post(namespace.encode(), b"x")
    await connection.stop_receiving(sid)
    assert len(inbox.taken) == 100
    assert sid not in connection.client._subscriptions
    connection.post(namespace.encode(), b"late")
    await connection.flush()
    assert len(inbox.taken) == 100


async def test_a_flush_is_answered_behind_what_was_posted(connection: Connection, namespace: str) -> None:
    inbox = Inbox()
    await connection.receive(namespace.encode(), inbox)
    for number in range(20):
        connection.post(namespace.encode(), bytes(2**20 - 100))
        await connection.flush()
        assert len(inbox.taken) == number + 1


async def test_a_cancelled_unsubscribe_has_unsubscribed(connection: Connection, namespace: str) -> None:
    sid = await connection.receive(namespace.encode(), Inbox())
    stopping = asyncio.ensure_future(connection.stop_receiving(sid))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await connection.flush()
    assert sid not in connection.client._subscriptions
    assert b"%d" % sid not in connection.client.parser.receivers
    assert connection.reconnects == 0


async def test_too_large_a_message_is_refused_here_and_the_connection_lives(
    connection: Connection, namespace: str
) -> None:
    limit, inbox = connection.max_payload, Inbox()
    await connection.receive(namespace.encode(), inbox)
    header = header_block({"X": "y"})
    connection.post(namespace.encode(), bytes(limit - len(header)), header=header)
    with pytest.raises(TooLarge, match=f"{limit + 1} bytes, the server's max_payload is {limit}") as caught:
        connection.post(namespace.encode(), bytes(limit - len(header) + 1), header=header)
    assert caught.value.reason is Reason.VALIDATION
    with pytest.raises(TooLarge):
        await connection.ask(namespace.encode(), bytes(limit + 1))
    await connection.flush()
    assert [len(body) for body in inbox.bodies] == [limit - len(header)]
    assert connection.reconnects == 0


async def test_a_fast_publisher_that_waits_for_room_can_be_cancelled(connection: Connection, namespace: str) -> None:
    limit = 2**20 - 100

    async def flood() -> None:
        while True:
            connection.post(namespace.encode(), bytes(limit))
            await connection.room()
            assert connection.client.pending_bytes < 4 * limit

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await flood()
    await connection.flush()
    assert connection.reconnects == 0


# -- what a server says


@pytest.mark.parametrize(
    "command",
    [b"NONSENSE\r\n", b"PUB x 99999999\r\n", b"SUB a..b 99\r\n"],
    ids=["parser error", "payload violation", "bad subject"],
)
async def test_server_errors_that_close_plain_nats_py_make_ours_connect_again(
    connection: Connection, plain: Client, namespace: str, command: bytes
) -> None:
    inbox = Inbox()
    await connection.receive(namespace.encode(), inbox)
    await connection.flush()
    plain._transport.write(command)
    connection.client._send(command)
    await came_back(connection)
    await eventually(lambda: plain.is_closed)
    connection.post(namespace.encode(), b"still subscribed")
    await inbox.has(b"still subscribed")
    assert connection.is_connected


async def test_a_permission_error_is_told_and_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = 'authorization { users = [{user: u, password: pw, permissions: {publish: {deny: "closed"}}}] }'
    with NatsServer(tmp_path, config=config) as server:
        async with opened(server.url.replace("//", "//u:pw@")) as connection:
            connection.post(b"closed", b"x")
            await connection.flush()
            assert "Permissions Violation" in caplog.text
            assert connection.is_connected
            assert connection.reconnects == 0


# -- outages


async def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with opened(server.url) as connection:
            inbox, silent, back = Inbox(), Inbox(), []
            await connection.receive(b"kept", inbox)
            await connection.receive(b"silent", silent)
            await echo(connection, "echo")
            connection.on_reconnect.append(lambda: 1 / 0)  # a callback that fails costs nothing but itself
            connection.on_reconnect.append(lambda: back.append(connection.is_connected))
            under_way = [asyncio.ensure_future(connection.ask(b"silent", timeout=30)) for _ in range(3)]
            await eventually(lambda: len(silent.taken) == 3)
            server.kill()
            for ended in await asyncio.gather(*under_way, return_exceptions=True):
                assert isinstance(ended, ConnectionLost), ended
            with pytest.raises(ConnectionLost):
                connection.post(b"kept", b"while down")
            with pytest.raises(JobError, match=r"no connection to NATS for 0.1 s: nothing was sent"):
                await connection.ask(b"echo", timeout=0.1)
            waiting = asyncio.ensure_future(connection.ask(b"echo", b"waited", timeout=20))
            server.start()
            assert (await waiting).data == b"waited"
            assert back == [True]
            connection.post(b"kept", b"after")
            await inbox.has(b"after")


async def test_what_was_pending_before_an_outage_is_not_sent_later(
    proxied: tuple[TcpProxy, Connection], connection: Connection, namespace: str
) -> None:
    proxy, ours = proxied
    inbox = Inbox()
    await connection.receive(namespace.encode(), inbox)
    await connection.flush()
    for _ in range(3):
        ours.post(namespace.encode(), b"too late")
    assert ours.client._pending
    ours.client._line.fail(OSError("broken"))  # as the read loop does, before they are sent
    with pytest.raises(ConnectionLost):
        ours.post(namespace.encode(), b"refused")
    await came_back(ours)
    ours.post(namespace.encode(), b"new")
    await inbox.has(b"new")
    assert proxy.lost == []


async def test_what_was_under_way_when_a_connection_broke_ends_at_once(nats_server: NatsServer, namespace: str) -> None:
    async with TcpProxy(nats_server.url) as proxy, opened(proxy.url) as far:
        asked = Inbox()
        await far.receive(namespace.encode(), asked)
        asking = asyncio.ensure_future(far.ask(namespace.encode(), timeout=3600))
        await eventually(lambda: asked.taken)
        proxy.cut()
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionLost, match="broke while a request was under way"):
                await asking


async def test_in_the_moment_of_the_break_an_ask_waits_for_the_new_connection(
    connection: Connection, namespace: str
) -> None:
    await echo(connection, namespace)
    connection.client._line.fail(OSError("broken"))
    assert (await connection.ask(namespace.encode(), b"x")).data == b"x"
    assert connection.reconnects == 1


async def test_a_connection_cut_in_a_row_comes_back_each_time(
    proxied: tuple[TcpProxy, Connection], namespace: str
) -> None:
    proxy, connection = proxied
    await echo(connection, namespace)
    for times in range(1, 5):
        proxy.cut()
        await came_back(connection, times)
        assert (await connection.ask(namespace.encode(), b"x")).data == b"x"


async def test_an_exception_in_the_middle_of_connecting_again_is_survived(
    proxied: tuple[TcpProxy, Connection], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, connection = proxied
    failures = [KeyError("unexpected"), AttributeError("again")]
    ours = connection.client._nats
    connect_init = ours._process_connect_init

    async def broken() -> None:
        if failures:
            raise failures.pop()
        await connect_init()

    monkeypatch.setattr(ours, "_process_connect_init", broken)
    proxy.cut()
    await came_back(connection)
    assert failures == []
    assert "failed unexpectedly" in caplog.text
    await connection.flush()


async def test_plain_nats_py_never_comes_back_from_such_an_exception(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pinned reason for replacing `_attempt_reconnect`."""
    client = await nats.connect(nats_server.url, reconnect_time_wait=0.01, max_reconnect_attempts=-1)

    async def broken() -> None:
        raise KeyError("unexpected")

    monkeypatch.setattr(client, "_process_connect_init", broken)
    await client.force_reconnect()
    await eventually(client._reconnection_task.done)
    assert isinstance(client._reconnection_task.exception(), KeyError)
    assert not client.is_connected
    assert not client.is_closed
    client._status = Client.CONNECTED
    await client.close()


async def test_a_suspended_server_is_noticed_though_it_takes_no_bytes(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server, NatsServer(tmp_path / "other") as other:
        async with opened(f"{server.url},{other.url}") as connection:
            ours = connection.client._nats
            frozen = next(s for s in (server, other) if urlsplit(s.url).port == ours.connected_url.port)
            ours.options["ping_interval"] = 1  # from the second ping on
            frozen.suspend()
            try:
                for _ in range(20):  # more than the sockets between take
                    with contextlib.suppress(ConnectionLost):
                        connection.post(b"x", bytes(2**20))
                with pytest.raises(ConnectionLost):
                    await connection.ask(b"x", timeout=30)
                await connection.when_up(timeout=20)
                assert ours.connected_url.port != urlsplit(frozen.url).port
            finally:
                frozen.resume()


async def test_a_close_is_not_held_up_by_a_server_that_takes_no_bytes(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        connection = Connection()
        await connection.open(server.url)
        server.suspend()
        try:
            for _ in range(20):
                connection.post(b"x", bytes(2**20))
            async with asyncio.timeout(10):
                await connection.close()
        finally:
            server.resume()
        assert connection.is_closed


# -- opening and closing


def no_new_tasks(before: set[asyncio.Task[object]]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return asyncio.all_tasks() <= before

    return look


@pytest.mark.parametrize("outage", [False, True])
async def test_a_close_is_clean_and_leaves_no_task(nats_server: NatsServer, namespace: str, outage: bool) -> None:
    before = asyncio.all_tasks()
    connection = Connection()
    await connection.open(nats_server.url)
    await connection.receive(namespace.encode(), Inbox())
    waiting = asyncio.ensure_future(connection.ask(namespace.encode()))
    await connection.flush()
    if outage:
        connection.client._line.fail(OSError("broken"))
    await connection.close()
    with pytest.raises(ConnectionLost):
        await waiting
    with pytest.raises(ConnectionLost):
        connection.post(namespace.encode(), b"x")
    with pytest.raises(ConnectionClosed):
        await connection.ask(namespace.encode())
    await connection.close()
    await eventually(no_new_tasks(before), within=2)


async def end(tasks: set[asyncio.Task[object]]) -> None:
    """Whatever they do about it: the end of the test's own loop would wait for them."""
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.01)


async def test_a_close_ends_an_attempt_to_connect_again_wherever_that_is(proxy: TcpProxy, namespace: str) -> None:
    ours = {"_Reconnecting._attempt_reconnect", "Client._read_loop", "Client._ping_interval", "Client._flusher"}
    # Some moments last a turn or two, and fall on other turns each time: the usual ones are tried more than once.
    for step in (*range(150), *range(20, 60), *range(20, 60)):
        before = asyncio.all_tasks()
        connection = Connection()
        await connection.open(proxy.url)
        await connection.receive(namespace.encode(), Inbox())
        connection.client._nats.options["reconnect_time_wait"] = 0
        proxy.cut()
        for _ in range(step):
            await asyncio.sleep(0)
        await connection.close()
        left = {task for task in asyncio.all_tasks() - before if task.get_coro().__qualname__ in ours}
        was_closed = connection.is_closed
        connection.client._nats._status = Client.CLOSED
        await end(left)
        assert not left, f"closed {step} turns of the loop after the connection broke"
        assert was_closed


async def test_an_attempt_to_connect_again_that_is_cancelled_once_ends(nats_server: NatsServer) -> None:
    """As at the end of an event loop, which cancels each task once, and waits for it."""
    for step in range(60):
        async with TcpProxy(nats_server.url) as proxy:
            connection = Connection()
            await connection.open(proxy.url)
        connection.client._nats.options["reconnect_time_wait"] = 0
        await eventually(lambda connection=connection: connection.client._nats.is_reconnecting)
        for _ in range(step):
            await asyncio.sleep(0)
        attempt = connection.client._nats._reconnection_task
        attempt.cancel()
        _, pending = await asyncio.wait({attempt}, timeout=2)
        await end(pending)
        await connection.close()
        assert not pending, f"cancelled after {step} turns of the loop"


async def test_what_was_posted_before_a_close_is_sent(
    nats_server: NatsServer, connection: Connection, namespace: str
) -> None:
    inbox, other = Inbox(), Connection()
    await connection.receive(namespace.encode(), inbox)
    await connection.flush()
    await other.open(nats_server.url)
    for number in range(50):
        other.post(namespace.encode(), b"%d" % number)
    await other.close()
    await inbox.has(*(b"%d" % number for number in range(50)))
    assert other.is_closed


async def test_a_close_while_the_connection_breaks_raises_nothing(proxied: tuple[TcpProxy, Connection]) -> None:
    proxy, connection = proxied
    connection.post(b"x", bytes(2**20))
    proxy.cut()
    connection.client._line.abort()
    connection.post(b"x", bytes(2**20))
    await connection.close()
    assert connection.is_closed


async def fails(url: str, timeout: float = 5, **options: object) -> JobError:
    """The error that opening ends in; nothing of it stays behind."""
    before, begin = asyncio.all_tasks(), asyncio.get_running_loop().time()
    connection = Connection()
    with pytest.raises(JobError) as caught:
        await connection.open(url, timeout=timeout, **options)
    assert asyncio.get_running_loop().time() - begin < timeout + 1.5
    assert connection.is_closed
    assert caught.value.reason is Reason.RUNNER_UNAVAILABLE
    await eventually(no_new_tasks(before), within=3)
    return caught.value


async def test_a_closed_port_is_one_clear_error_within_the_timeout(unused_port: int) -> None:
    error = await fails(f"nats://me:secret@127.0.0.1:{unused_port}", timeout=1)
    assert error.message.startswith(f"cannot reach NATS at nats://127.0.0.1:{unused_port}: ")
    assert "Connect call failed" in error.message
    assert "secret" not in error.message


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that is nobody else's, and refuses connections: bound, but not listened on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize("url", ["nats://h:99999", "nats://[::1", "", "ws://a,nats://b", "nats://"])
async def test_a_url_that_is_none_is_said_to_be_one(url: str) -> None:
    error = await fails(url)
    assert "cannot reach NATS at " in error.message
    assert "no answer" not in error.message


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """A server that takes connections and says nothing."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in held:
            writer.close()


async def test_a_server_that_says_nothing_is_given_up_in_time(silent_url: str) -> None:
    error = await fails(silent_url, timeout=1)
    assert error.message.startswith(f"cannot reach NATS at {silent_url}: ")


@pytest.mark.parametrize("place", ["url", "options"])
async def test_a_wrong_password_is_a_clear_error_at_once_without_the_password(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with NatsServer(tmp_path, config="authorization { user: u, password: right }") as server:
        begin = asyncio.get_running_loop().time()
        with caplog.at_level(logging.DEBUG):
            if place == "url":
                error = await fails(server.url.replace("//", "//u:hunter2@"), timeout=20)
            else:
                error = await fails(server.url, timeout=20, user="u", password="hunter2")
        assert asyncio.get_running_loop().time() - begin < 3
        assert "Authorization Violation" in error.message
        assert "hunter2" not in error.message + caplog.text


async def test_an_open_that_is_cancelled_leaves_nothing_behind(silent_url: str) -> None:
    before = asyncio.all_tasks()
    connection = Connection()
    opening = asyncio.ensure_future(connection.open(silent_url, timeout=60))
    await eventually(lambda: connection.client._nats._current_server is not None)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await eventually(no_new_tasks(before), within=3)
    assert connection.is_closed


async def test_an_old_server_is_refused_by_name() -> None:
    server = await asyncio.start_server(old_server, "127.0.0.1", 0)
    async with server:
        error = await fails(f"nats://u:pw@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert "nats-server 2.15 or later is needed" in error.message
    assert f"runs {VERSION}:" in error.message
    assert "pw" not in error.message


async def test_attempts_that_get_no_answer_leave_no_socket_open(tmp_path: Path, silent_url: str) -> None:
    with NatsServer(tmp_path) as server:
        async with opened(server.url) as connection:
            connection.client._nats.options["connect_timeout"] = 0.05
            tried: list[TcpLine] = []
            wire = connection.client._wire
            connect = wire.connect

            async def noted(*arguments: object, **named: object) -> None:
                await connect(*arguments, **named)
                tried.append(wire._line)

            wire.connect = noted
            connection.client._nats._server_pool[0].uri = urlsplit(silent_url)
            connection.client._line.fail(OSError("broken"))
            await eventually(lambda: len(tried) == 3)
            assert all(line._transport.is_closing() for line in tried[:-1])


async def test_an_unsubscribe_cut_short_by_a_new_connection_leaves_no_ghost_behind(
    far: Connection, proxy: TcpProxy, plain: Client
) -> None:
    """The server would go on to deliver to nobody: a queue group's messages would vanish into it."""
    got: list[bytes] = []
    sid = await far.receive(b"ghost", lambda *message: got.append(message[3]), queue="q")
    await far.flush()
    proxy.cut_before_request(lambda data: b"UNSUB" in data)
    await far.stop_receiving(sid)
    await far.when_up()
    await far.flush()
    with pytest.raises(nats_errors.NoRespondersError):
        await plain.request("ghost", b"1", timeout=1)


async def test_answers_of_other_clients_come_to_a_subject_of_their_own(
    connection: Connection, plain: Client, namespace: str
) -> None:
    """It can be told from any other by its second word: whoever gives such answers needs no right on the others."""
    replies: list[str] = []

    async def answer(message: Msg) -> None:
        replies.append(message.reply)
        await message.respond(b"here")

    await plain.subscribe(f"{namespace}.ask", cb=answer)
    await plain.flush()
    for seen in (True, False):
        await connection.ask(f"{namespace}.ask".encode(), seen=seen)
    assert [reply.split(".")[:2] for reply in replies] == [["_INBOX", "seen"], ["_INBOX", "own"]]
