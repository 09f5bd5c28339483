"""The connection to NATS: fast requests and subscriptions, and a clear end for whatever an outage cut short.

Messages that were waiting to be sent when a connection broke are not sent later. By then they could mean something
else: a late ack would act on a newer delivery. A request that was sent and not answered ends with `ConnectionLost`, and
its sender decides what to do.
"""

from __future__ import annotations

import asyncio
import secrets
from asyncio import _get_running_loop
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Unpack

from jsjobs.home_loop import HomeLoop
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, ServerTooOld, Unreachable
from jsjobs.jetstream.client.interface import ClientEvents, Login, NatsClient, Receiver
from jsjobs.jetstream.client.nats_client import HardenedClient
from jsjobs.jetstream.client.permissions import NotPermitted, Refusals, refusal_in
from jsjobs.jetstream.client.requests import Answers, Reply
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

MIN_SERVER = (2, 15)
"""The oldest supported nats-server. 2.15 brought source consumers, message schedules with cron, and the fixes for
messages that reached their maximum of deliveries."""
DEFAULT_TIMEOUT = 5.0
_CLOSED = "the connection was closed"
MAX_PENDING = 2 * 1024 * 1024
"""Bytes posted and not yet sent above which a publisher has to wait."""
_FLUSH_WITHIN = 10.0
_CHECK_WITHIN = 5.0
_UNSUBSCRIBE_WITHIN = 2.0


class Connection:
    """A NATS connection with a fast path for requests and subscriptions, on top of any `NatsClient`."""

    def __init__(self, client: Callable[[ClientEvents], NatsClient] = HardenedClient) -> None:
        """Create a connection that is not open yet.

        It belongs to the event loop that is running, so there must be one.

        Args:
            client: Makes the client that connects and reports events of the connection.
        """
        self.client = client(_Events(self))
        """The client that talks to the server."""
        self.home = HomeLoop(self, self._on_fork)
        """The event loop in which this connection may be used."""
        # The client's own methods, without a wrapper: each job makes some of these calls.
        self.post = self.client.post
        self.listen = self.client.listen
        self.listen_no_more = self.client.listen_no_more
        self.forget = self.client.forget
        self._up = asyncio.Event()
        self._answers = Answers()
        self._refused = Refusals()
        self._sweeper: asyncio.Task[None] | None = None
        self._fatal: asyncio.Future[Exception] | None = None
        self._refusals = 0
        self._inbox_prefix = "_INBOX"
        self.direct_gets_refused: NotPermitted | None = None
        """The server's refusal, if this user must read messages in another way; see `jetstream/api/messages`."""
        self.on_reconnect: list[Callable[[], None]] = []
        """Functions called after each reconnect, once all subscriptions are restored."""

    async def open(
        self, servers: str, *, timeout: float = DEFAULT_TIMEOUT, inbox_prefix: str = "_INBOX", **login: Unpack[Login]
    ) -> None:
        """Connect, and stay connected until `close`.

        Args:
            servers: One URL, or several separated by commas.
            timeout: Seconds to try the first connection. After it was up once, reconnecting has no limit.
            inbox_prefix: Prefix of the reply subjects of requests.
            **login: Credentials and TLS settings.

        Raises:
            JobError: `RunnerUnavailable`, if no server answers, every server refuses us, or it is older than 2.15.
        """
        self._fatal = asyncio.get_running_loop().create_future()
        self._inbox_prefix = inbox_prefix
        urls = [url.strip() for url in servers.split(",")]
        connecting = asyncio.ensure_future(self.client.connect(urls, timeout=timeout, login=login))
        either: set[asyncio.Future[Any]] = {connecting, self._fatal}
        try:
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() or connecting.exception() is not None:
                failure = connecting.exception() if connecting.done() else self.client.last_error
                why = self._fatal.result() if self._fatal.done() else (failure or "no answer")
                text = _text_of(why)
                if self.client.needs_tls and isinstance(why, ConnectionError):
                    text += " (it may require a client certificate, or a different one)"
                raise Unreachable(servers, text, why if isinstance(why, Exception) else None)
            self._fatal = None
            await self._after_connect(servers)
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await self.close()
            raise

    async def _after_connect(self, servers: str) -> None:
        if self.client.server_version[:2] < MIN_SERVER:
            raise ServerTooOld(servers, self.server_version)
        # The kind stands before what is this connection's own: rights on answers are rights on `<prefix>.seen.>`.
        inbox = b"%b.%%b.%b." % (self._inbox_prefix.encode(), secrets.token_urlsafe(16).encode())
        self._answers.inbox, self._answers.seen_inbox = inbox % b"own", inbox % b"seen"
        self._up.set()
        self.listen(inbox % b"*" + b"*", self._answers.take)
        with suppress(ConnectionLost):  # in an outage requests wait, or fail by themselves
            await self.client.flush(_CHECK_WITHIN)
        self._refused.check_inbox(inbox % b"*")
        self._sweeper = asyncio.ensure_future(self._answers.sweep())
        # However the sweeper ends, also with the event loop: without it a lost answer would be awaited for ever.
        self._sweeper.add_done_callback(self._on_sweepers_end)

    def _on_sweepers_end(self, sweeper: asyncio.Future[None]) -> None:
        self._answers.end(_CLOSED)
        if not sweeper.cancelled() and (error := sweeper.exception()) is not None:
            logger.error("the task that expires unanswered requests failed", exc_info=error)

    async def close(self) -> None:
        """Send what is still pending, then close for good."""
        try:
            await self.client.close()
        finally:
            self._answers.end(_CLOSED)
            self._up.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None

    @property
    def server_version(self) -> str:
        """Return the version of the connected server."""
        return "{}.{}.{}".format(*self.client.server_version)

    @property
    def max_payload(self) -> int:
        """Return how many bytes of header and body the server takes in one message."""
        return self.client.max_payload

    @property
    def reconnects(self) -> int:
        """Return the number of reconnects so far."""
        return self.client.reconnects

    @property
    def subscription_count(self) -> int:
        """Return the number of subscriptions, the inbox for answers included."""
        return self.client.subscription_count

    @property
    def is_up(self) -> bool:
        """Return whether the connection is up and all `on_reconnect` functions were called for it."""
        return self._up.is_set()

    @property
    def is_connected(self) -> bool:
        """Return whether messages can be posted now."""
        return self.client.is_connected

    @property
    def is_closed(self) -> bool:
        """Return whether the connection was closed for good."""
        return self.client.is_closed

    @property
    def is_behind(self) -> bool:
        """Return whether the server has sent more than was read."""
        return self.client.is_behind

    @property
    def is_crowded(self) -> bool:
        """Return whether so much is pending that a publisher should wait in `room`."""
        return self.client.pending_bytes > MAX_PENDING

    async def room(self) -> None:
        """Wait until most of what was posted is sent, so that a fast publisher does not fill the memory."""
        if self.client.pending_bytes > MAX_PENDING:
            await self.client.sent()

    async def flush(self, timeout: float = _FLUSH_WITHIN) -> None:
        """Wait until the server has handled everything posted, and everything it sent before that has arrived.

        Without a connection this returns at once: nothing that was posted is on its way.

        Raises:
            ConnectionClosed: If the connection was closed.
            ConnectionLost: If the connection broke, or `timeout` seconds passed.
        """
        if self.client.is_closed:
            raise ConnectionClosed
        if self.client.is_connected:
            await self.client.flush(timeout)

    def new_inbox(self) -> str:
        """Return a reply subject that nobody else uses or can guess."""
        return f"{self._inbox_prefix}.{secrets.token_urlsafe(16)}"

    async def when_up(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until the connection is up.

        Raises:
            WrongLoop: If this is not the event loop in which the connection was opened.
            ConnectionClosed: If the connection was closed, or its event loop is ending.
            JobError: `RunnerUnavailable`, if it is not up within `timeout` seconds: nothing was sent.
        """
        self.home.check()
        if self.client.is_closed or self._answers.are_over:
            raise ConnectionClosed
        if not self._up.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._up.wait()
            except TimeoutError as error:
                raise JobError.from_runner_unavailable(
                    f"no connection to NATS for {timeout:g} s: nothing was sent"
                ) from error

    def ask_soon(
        self,
        subject: bytes,
        data: bytes = b"",
        *,
        header: bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        once: bool = False,
        seen: bool = False,
        again: bool = False,
    ) -> asyncio.Future[Reply]:
        """Send a request at once, and return a future that ends as `ask` would.

        Several requests can be in flight together this way.

        Raises:
            ConnectionClosed, ConnectionLost, JobError: As in `post`, or if the connection was closed.
        """
        resend = (lambda reply: self.post(subject, data, reply=reply, header=header)) if again else None
        reply, future = self._answers.expect(subject, timeout, once=once, seen=seen, again=resend)
        try:
            self.post(subject, data, reply=reply, header=header)
        except Exception:
            self._answers.forget(reply)
            raise
        return future

    async def ask(
        self,
        subject: bytes,
        data: bytes = b"",
        *,
        header: bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        once: bool = False,
        seen: bool = False,
        again: bool = False,
    ) -> Reply:
        """Send a request once the connection is up, and wait for its answer.

        Args:
            subject: The subject to send to.
            data: The body.
            header: A whole header block; empty for none.
            timeout: Seconds to wait for the answer.
            once: Whether exactly one answer comes, as for a message that a stream stores. This is cheaper for the
                server.
            seen: Whether other clients see the request, because one of them is to answer it. Its reply subject has
                `.seen.` after the prefix, so that those who answer need no right to answer in the server's place.
            again: Whether to send the request again if no answer comes. Only for requests that change nothing.

        Raises:
            ConnectionLost: If the connection broke, or `timeout` seconds passed, with the request in flight.
            NoResponders: If nobody listens on the subject.
            NotPermitted: If this user may not publish on it.
            WrongLoop: If this is not the event loop in which the connection was opened.
            JobError: `RunnerUnavailable` or `Validation`: nothing was sent.
        """
        # Inlined instead of calling `check`: every submit passes here.
        if _get_running_loop() is not self.home.loop:
            raise self.home.refusal()
        if not self._up.is_set():
            await self.when_up(timeout)
        return await self.ask_soon(subject, data, header=header, timeout=timeout, once=once, seen=seen, again=again)

    async def receive(self, subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
        """Subscribe a plain function.

        It is called with each message, in order, and must not block.

        Returns:
            The subscription's id, for `stop_receiving`.

        Raises:
            WrongLoop: If this is not the event loop in which the connection was opened.
            ConnectionClosed: If the connection was closed.
        """
        self.home.check()
        if self.client.is_closed:
            raise ConnectionClosed
        if subject.split() != [subject] or not all(subject.split(b".")):
            raise JobError.from_validation(f"{subject!r} is not a subject")  # the server would cut the connection
        sid = self.listen(subject, receiver, queue=queue)
        try:
            await asyncio.sleep(0)  # now the socket has it: whoever is told of it next comes after it
        except BaseException:
            self.listen_no_more(sid)
            self.forget(sid)
            raise
        return sid

    async def stop_receiving(self, sid: int, *, drain: bool = True) -> None:
        """End a subscription.

        Args:
            sid: The subscription's id.
            drain: Whether to return only when everything the server had sent has reached the function. This costs a
                round trip.
        """
        self.listen_no_more(sid)
        try:
            if drain and self.client.is_connected:
                await self.client.flush(_UNSUBSCRIBE_WITHIN)
        except ConnectionLost:
            logger.debug("the connection broke while unsubscribing", exc_info=True)
        finally:
            self.forget(sid)

    def _on_fork(self) -> None:
        # The parent process shares the socket: nothing may be written to it here, not even by a close.
        self.client.abandon()
        self._up.clear()

    def _on_break(self, error: Exception) -> None:
        if self._up.is_set():
            logger.warning("lost the connection to NATS (%s); reconnecting", _text_of(error))
        # At once: whoever waits for the connection must not believe that it is up at this moment.
        self._up.clear()
        self._answers.fail("the connection to NATS broke while a request was under way")

    def _on_reconnect(self) -> None:
        self._up.set()
        logger.info("reconnected to NATS")
        for callback in tuple(self.on_reconnect):
            try:
                callback()
            except Exception:
                logger.exception("a function called after a reconnect failed")

    def _on_error(self, error: Exception) -> None:
        refusal = refusal_in(str(error))
        if refusal is not None and (
            self._answers.refuse(refusal) if refusal.is_publish else self._refused.note(refusal)
        ):
            return
        if self._fatal is not None and not self._fatal.done():
            # The first connection: refused by every server, or by one for good, it need not wait for the timeout.
            self._refusals += isinstance(error, OSError) and not isinstance(error, TimeoutError)
            if "authorization" in str(error).lower() or self._refusals >= self.client.server_count:
                self._fatal.set_result(error)
        elif not self._up.is_set() or (refusal is not None and not self._refused.is_time_to_warn()):
            logger.debug("NATS: %s", error)
        else:
            logger.warning("NATS: %s", _text_of(error))


class _Events:
    """The events that a client reports to a connection, kept apart from it because its users need not see them."""

    def __init__(self, connection: Connection) -> None:
        self.on_break = connection._on_break  # noqa: SLF001 - of this module
        self.on_reconnect = connection._on_reconnect  # noqa: SLF001
        self.on_error = connection._on_error  # noqa: SLF001


def _text_of(error: object) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__
