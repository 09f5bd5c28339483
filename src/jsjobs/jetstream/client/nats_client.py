"""The NATS client that jsjobs uses: nats-py chooses servers, authenticates and reconnects; all else is done here.

`HardenedClient` owns the wire, the parser, all subscriptions and everything to be sent. It has a nats-py client whose
transport is that wire. That client sees only what the server sends about servers and its own pings. `_Reconnecting`
corrects how it reconnects. `PRIVATE_NAMES` lists all of nats-py's private names that are used. They hold for one minor
version of it (see `pyproject.toml`), and a test checks that they are still there.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from nats import errors as nats_errors
from nats.aio.client import Client

from jsjobs.cancellation import end_if_cancelled
from jsjobs.jetstream.client.credentials import sign, user_jwt
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, TooLarge, Unanswered
from jsjobs.jetstream.client.interface import ClientEvents, Login, Receiver
from jsjobs.jetstream.client.line import Line
from jsjobs.jetstream.client.parser import WireParser
from jsjobs.jetstream.client.permissions import refusal_in
from jsjobs.jetstream.client.transport import Wire
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

PRIVATE_NAMES = {
    "_transport": "set: our wire, which nats-py keeps as it is never false",
    "_attempt_reconnect": "overridden: an exception that nats-py does not expect ends all its attempts",
    "_process_op_err": "overridden: the first to hear of a break that nats-py found; called by its read loop and pings",
    "_process_info": "called: the servers of the cluster",
    "_process_pong": "called: answers nats-py's own pings",
}
"""The private names of nats-py that jsjobs uses, all of them in this file, and what each is used for."""

_Read = TypeVar("_Read")
_PING = b"PING\r\n"
_PONG = b"PONG\r\n"
_PING_EVERY = 5  # seconds
_UNANSWERED_PINGS = 2  # more, and the connection counts as broken
_CLOSE_WITHIN = 2.0  # seconds to send what is pending; a peer that takes nothing must not hold up a close
_SENT_WITHIN = 5.0  # seconds to wait for room; what is posted after that only takes more memory
_AGAIN_AFTER = 1.0  # seconds to the next attempt to connect, after an unexpected failure


class ServerError(OSError):
    """An error that the server reported, in its words."""


class HardenedClient:
    """A `NatsClient` on top of nats-py that only `close` ends."""

    def __init__(self, events: ClientEvents) -> None:
        """Create a client that is not connected yet, in the running event loop, to which it belongs."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        self.parser = WireParser(self)
        self._wire = Wire(self)
        self._nats = _Reconnecting(self, self._wire)
        self._line: Line | None = None
        """The current connection; without one, nothing can be posted."""
        self._pending: list[bytes] = []
        self._is_sending = False
        self._sent: asyncio.Future[None] | None = None
        self._pings: deque[asyncio.Future[None] | None] = deque()
        """The futures that wait for a PONG, in order; None stands for nats-py."""
        self._subscriptions: dict[int, tuple[bytes, bytes]] = {}
        """Subject and queue group of each subscription, to restore it on each new connection."""
        self._last_sid = 0
        self._has_connected = False
        self._is_abandoned = False
        self.is_closed = False
        self.pending_bytes = 0
        self.max_payload = self._nats.max_payload
        self.reconnects = 0

    @property
    def needs_tls(self) -> bool:
        """Return whether TLS was asked for; if so, nothing is sent without it."""
        return self._wire.needs_tls

    @property
    def is_connected(self) -> bool:
        """Return whether messages can be posted now."""
        return self._line is not None

    @property
    def is_behind(self) -> bool:
        """Return whether the server has sent more than was read."""
        return self.parser.is_midway

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Return the version of the server that the client is or was last connected to."""
        version = self._nats.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def server_count(self) -> int:
        """Return the number of known servers."""
        return len(self._nats.servers)

    @property
    def subscription_count(self) -> int:
        """Return the number of subscriptions whose function may still be called."""
        return len(self.parser.receivers)

    @property
    def last_error(self) -> Exception | None:
        """Return the error of the last attempt to connect."""
        return self._nats.last_error

    async def connect(self, urls: list[str], *, timeout: float, login: Login) -> None:
        """Try to connect until a server accepts; see `NatsClient`."""
        self._nats.make_tls = login.get("tls")
        self._wire.needs_tls = "tls" in login or any(url.startswith("tls://") for url in urls)
        await self._nats.connect(
            urls,
            error_cb=self._on_error,
            reconnected_cb=self._on_reconnect,
            max_reconnect_attempts=-1,
            reconnect_time_wait=random.uniform(0.1, 0.4),  # type: ignore[arg-type]  # noqa: S311 - spreads a herd
            connect_timeout=max(1, int(timeout)),
            ping_interval=_PING_EVERY,
            max_outstanding_pings=_UNANSWERED_PINGS,
            **_options(login),
        )
        self._has_connected = True

    async def close(self) -> None:
        """Send what was posted, for two seconds at most, then close for good; closing again does nothing."""
        self.is_closed = True
        if self._is_abandoned:
            return
        line, rest = self._line, b"".join(self._pending)
        self._drop(ConnectionClosed())
        try:
            if line is not None:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_WITHIN):
                        line.write(rest)
                        await line.finish()
            await self._nats.end_reconnecting()
            if self._has_connected:
                await self._nats.close()
        finally:
            self._wire.close()
            await self._wire.wait_closed()

    def abandon(self) -> None:
        """Never touch the socket again: this process was forked, and the socket belongs to its parent."""
        self._line, self.is_closed, self._is_abandoned = None, True, True

    def post(self, subject: bytes, data: bytes = b"", *, reply: bytes = b"", header: bytes = b"") -> None:
        """Post one message, without waiting and without a receipt; see `NatsClient`."""
        if self._line is None:
            raise ConnectionLost("there is no connection to NATS now")
        size = len(header) + len(data)
        if size > self.max_payload:
            # The server would cut the connection.
            raise TooLarge(size, self.max_payload)
        if header:
            command = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(header), size, header, data)
        else:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, size, data)
        self._pending.append(command)
        self.pending_bytes += len(command)
        if not self._is_sending:
            self.send_soon()

    async def sent(self) -> None:
        """Wait until the socket has taken everything posted, the connection broke, or five seconds have passed."""
        if self._pending:
            if self._sent is None:
                self._sent = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SENT_WITHIN):
                    await asyncio.shield(self._sent)

    async def flush(self, timeout: float) -> None:
        """Wait until the server has handled everything posted, and all it sent before has arrived; see `NatsClient`."""
        if self._line is None:
            raise ConnectionLost("there is no connection to NATS now")
        answered: asyncio.Future[None] = self._loop.create_future()
        self._pings.append(answered)
        self._send(_PING)
        try:
            async with asyncio.timeout(timeout):
                await answered
        except TimeoutError:
            raise Unanswered from None

    def listen(self, subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
        """Subscribe a plain function, on this connection and all later ones, and return the subscription's id."""
        self._last_sid += 1
        sid = self._last_sid
        # Before the server can answer.
        self.parser.receivers[b"%d" % sid] = receiver
        self._subscriptions[sid] = (subject, queue.encode())
        self._subscribe(sid)
        return sid

    def listen_no_more(self, sid: int) -> None:
        """Unsubscribe; what the server sent before still reaches the function, until `forget`."""
        # A reconnect meanwhile must not restore it: the server would deliver to nobody.
        if self._subscriptions.pop(sid, None) is not None:
            self._send(b"UNSUB %d\r\n" % sid)

    def forget(self, sid: int) -> None:
        """Stop calling the function of an ended subscription."""
        self._subscriptions.pop(sid, None)
        self.parser.receivers.pop(b"%d" % sid, None)

    # -- events of the wire

    def on_stand(self, line: Line) -> None:
        """Restore the subscriptions, before anything else can be posted."""
        self.parser.reset()
        self._line = line
        self.max_payload = self._nats.max_payload
        for sid in self._subscriptions:
            self._subscribe(sid)

    def on_end(self, line: Line, error: Exception) -> None:
        """Give up what was on its way, if this was the current connection."""
        if line is self._line:
            self.on_break(error)

    def on_break(self, error: Exception) -> None:
        """Drop everything pending: sent later, it could mean something else."""
        if not self.is_closed:
            self._drop(ConnectionLost("the connection to NATS broke"))
            self._events.on_break(error)

    def put(self, data: bytes) -> None:
        """Send nats-py's bytes after what was posted: an answer to its ping then shows that the rest was sent."""
        if data == _PING:
            self._pings.append(None)
        self._send(data)

    def send_soon(self) -> None:
        """Send what is pending, once for everything posted in one turn of the event loop."""
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send_now)

    # -- events of the parser

    def on_ping(self) -> None:
        """Answer a PING."""
        self._send(_PONG)

    def on_pong(self) -> None:
        """Wake whoever waits for this PONG; a flush that was given up costs nothing."""
        if self._pings:
            waiting = self._pings.popleft()
            if waiting is None:
                self._wire.do(self._nats.take_pong)
            elif not waiting.done():
                waiting.set_result(None)

    def on_info(self, info: dict[str, Any]) -> None:
        """Learn the servers of the cluster."""
        self._wire.do(partial(self._nats.take_info, info))

    def on_err(self, text: str) -> None:
        """Report an error, and reconnect unless it is about permissions: nats-py closes for good on most errors."""
        error = ServerError(text.strip("'"))
        self._events.on_error(error)
        if self._line is not None and refusal_in(text) is None:
            self._line.fail(error)

    # -- events of nats-py

    async def _on_error(self, error: Exception) -> None:
        self._events.on_error(error)

    async def _on_reconnect(self) -> None:
        end_if_cancelled()
        self.reconnects += 1
        self._events.on_reconnect()

    def _subscribe(self, sid: int) -> None:
        self._send(b"SUB %b %b %d\r\n" % (*self._subscriptions[sid], sid))

    def _send(self, command: bytes) -> None:
        """Send a command that is not a message, if there is a connection."""
        if self._line is not None:
            self._pending.append(command)
            self.pending_bytes += len(command)
            self.send_soon()

    def _send_now(self) -> None:
        self._is_sending = False
        line = self._line
        if self._pending and line is not None and line.takes_more:
            data = b"".join(self._pending)
            self._pending.clear()
            self.pending_bytes = 0
            line.write(data)
            if self._sent is not None:
                self._end_wait()

    def _drop(self, why: JobError) -> None:
        self._line = None
        self._pending.clear()
        self.pending_bytes = 0
        self._end_wait()
        while self._pings:
            waiting = self._pings.popleft()
            if waiting is not None and not waiting.done():
                waiting.set_exception(why)

    def _end_wait(self) -> None:
        if self._sent is not None:
            self._sent.set_result(None)
            self._sent = None


class _Reconnecting(Client):
    """nats-py's client, which makes the connection; all our changes to it are here and in `PRIVATE_NAMES`."""

    def __init__(self, owner: HardenedClient, wire: Wire) -> None:
        super().__init__()
        self._owner = owner
        self._attempt: asyncio.Task[Any] | None = None
        self._transport = wire
        self.make_tls: Callable[[], ssl.SSLContext] | None = None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Return a new context for each connection: the files are replaced while the process runs."""
        if self.make_tls is None:
            return super().ssl_context
        return _or_nats_error(self.make_tls)

    async def take_info(self, info: dict[str, Any]) -> None:
        await self._process_info(info)

    async def take_pong(self) -> None:
        with suppress(asyncio.InvalidStateError):  # nats-py does not wait for it any more
            await self._process_pong()

    async def end_reconnecting(self) -> None:
        """End the attempts to reconnect: nats-py's close leaves one running, which opens again what was closed."""
        while (task := self._attempt) is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    async def _process_op_err(self, e: Exception) -> None:
        """Handle a break as nats-py does, but stop posting at once, and ignore a connection that was closed."""
        if not self._owner.is_closed:
            self._owner.on_break(e)
            await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        """Reconnect as nats-py does, but try again after an unexpected exception, which there ends all attempts."""
        self._attempt = asyncio.current_task()
        while not self._owner.is_closed:
            try:
                await super()._attempt_reconnect()
            except asyncio.CancelledError:
                raise
            except Exception:
                end_if_cancelled()
                logger.exception("reconnecting to NATS failed unexpectedly; trying again")
                await asyncio.sleep(_AGAIN_AFTER)
            else:
                return


def _options(login: Login) -> dict[str, Any]:
    """Translate a login into the options of nats-py's `connect`."""
    options: dict[str, Any] = {**login}
    options.pop("tls", None)
    if "nkey" in login:
        options["nkeys_seed"] = str(options.pop("nkey"))
    if "creds" in login:
        creds = options.pop("creds")
        # nats-py's own reader of such files never returns from one that was replaced by a broken one.
        options["user_jwt_cb"] = partial(_or_nats_error, partial(user_jwt, creds))
        options["signature_cb"] = lambda nonce: _or_nats_error(partial(sign, creds, nonce))
    return options


def _or_nats_error(read: Callable[[], _Read]) -> _Read:
    """Read files, raising errors that nats-py takes for a failed attempt."""
    try:
        return read()
    except JobError as error:
        raise nats_errors.Error(f"nats: {error.message}") from None
