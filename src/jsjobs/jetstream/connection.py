"""The connection to NATS: requests and subscriptions on a lean path, and a clear end for whatever an outage cut short.

What was waiting to be sent when a connection broke is not sent later, when it could mean something else (a late ack
acts on a newer delivery); what was sent and not answered ends with `ConnectionLost`, for the sender to decide.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.nuid import NUID

from jsjobs.home_loop import HomeLoop
from jsjobs.jetstream.answers import Answers, Reply
from jsjobs.jetstream.errors import ConnectionClosed, ConnectionLost, ServerTooOld, TooLarge, without_secrets
from jsjobs.jetstream.hardened import HardenedClient, NoTls
from jsjobs.jetstream.parser import Receiver
from jsjobs.jetstream.refusals import NotPermitted, Refusals, refusal_in
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

MIN_SERVER = (2, 15)
"""Source consumers, message schedules with cron, and the fixes for max-delivered messages came with 2.15."""
DEFAULT_TIMEOUT = 5.0
_CLOSED = "the connection was closed"


class Connection(HardenedClient):
    """A NATS connection with a lean path for requests and subscriptions beside nats-py's own methods."""

    def __init__(self) -> None:
        super().__init__()
        self.home = HomeLoop(self, self._on_fork)
        """The loop that it can be used in."""
        self._up = asyncio.Event()
        self._answers = Answers()
        self._refused = Refusals()
        self._sweeper: asyncio.Task[None] | None = None
        self._fatal: asyncio.Future[Exception] | None = None
        self._refusals = 0
        self.direct_gets_refused: NotPermitted | None = None
        """In the server's words, where this user must read messages in another way; see `reading`."""
        self.on_reconnect: list[Callable[[], None]] = []
        """Called after each new connection, when all subscriptions stand again."""

    async def open(self, servers: str, *, timeout: float = DEFAULT_TIMEOUT, **options: Any) -> None:
        """Connect, and stay connected until `close`.

        Args:
            servers: One URL, or several with commas between them.
            timeout: Seconds to try the first connection; once it stood, it is made again for ever.
            **options: Of `nats.connect`: credentials, TLS, name.

        Raises:
            JobError: `RunnerUnavailable`, if no server answers, none lets us in, or it is older than 2.15.
        """
        self._fatal = asyncio.get_running_loop().create_future()
        urls = [url.strip() for url in servers.split(",")]
        self.needs_tls = "tls" in options or any(url.startswith("tls://") for url in urls)
        connecting = asyncio.ensure_future(
            self.connect(
                urls,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
                max_reconnect_attempts=-1,
                reconnect_time_wait=random.uniform(0.1, 0.4),  # type: ignore[arg-type]  # noqa: S311 - spreads a herd
                connect_timeout=max(1, int(timeout)),
                ping_interval=5,
                max_outstanding_pings=2,
                **options,
            )
        )
        either: set[asyncio.Future[Any]] = {connecting, self._fatal}
        try:
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() or connecting.exception() is not None:
                failure = connecting.exception() if connecting.done() else self.last_error
                why = self._fatal.result() if self._fatal.done() else (failure or "no answer")
                text = str(why).removeprefix("nats: ") or type(why).__name__
                if self.needs_tls and isinstance(why, ConnectionError):
                    text += " (it may want a certificate of this client, or another one)"
                raise JobError.from_runner_unavailable(
                    f"cannot reach NATS at {without_secrets(servers)}: {text}",
                    cause=why if isinstance(why, Exception) else None,
                )
            self._fatal = None
            await self._after_connect(servers)
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await self.close()
            raise

    async def _after_connect(self, servers: str) -> None:
        version = self.connected_server_version
        if (version.major, version.minor) < MIN_SERVER:
            raise ServerTooOld(servers, self.server_version)
        inbox = b"%b.%%b.%b." % (bytes(self._inbox_prefix), bytes(NUID().next()))
        self._answers.inbox, self._answers.seen_inbox = inbox % b"own", inbox % b"seen"
        self._up.set()
        await self.receive(inbox % b"*" + b"*", self._answers.take)
        await self._refused.check_inbox(self, inbox % b"*")
        self._sweeper = asyncio.ensure_future(self._answers.sweep())
        # However it ends, as with the whole event loop: without it a lost answer would be waited for without end.
        self._sweeper.add_done_callback(self._on_sweepers_end)

    def _on_sweepers_end(self, sweeper: asyncio.Future[None]) -> None:
        self._answers.end(_CLOSED)
        if not sweeper.cancelled() and (error := sweeper.exception()) is not None:
            logger.error("nobody waits for answers of NATS any more", exc_info=error)

    @property
    def server_version(self) -> str:
        """Of the server it is connected to."""
        version = self.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def close(self) -> None:
        """Send what is waiting to be sent, then close for good."""
        try:
            await super().close()
        finally:
            self._answers.end(_CLOSED)
            self._up.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None

    @property
    def is_up(self) -> bool:
        """Whether it stands, and whoever wants to know of a new connection has been told."""
        return self._up.is_set()

    async def when_up(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait for the connection to stand.

        Raises:
            WrongLoop: If this is not the loop that it was opened in.
            ConnectionClosed: If it was closed, or its event loop is ending.
            JobError: `RunnerUnavailable`, if it does not within `timeout` seconds: nothing was sent.
        """
        self.home.check()
        if self.is_closed or self._answers.are_over:
            raise ConnectionClosed
        if not self._up.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._up.wait()
            except TimeoutError as error:
                raise JobError.from_runner_unavailable(
                    f"no connection to NATS for {timeout:g} s: nothing was sent"
                ) from error

    def post(self, subject: bytes, data: bytes = b"", *, reply: bytes = b"", header: bytes = b"") -> None:
        """Put one message on its way, without waiting and without a receipt.

        The subject must be a valid one: it is not looked at again here.

        Raises:
            ConnectionLost: If there is no connection now; the message is then not sent later either.
            TooLarge: If header and body are more than the server's `max_payload` (its default is 1 MiB).
        """
        if self._status != Client.CONNECTED:
            raise ConnectionLost("there is no connection to NATS now")
        size = len(header) + len(data)
        if size > self._max_payload:
            # nats-py counts the body alone; the server would cut the connection.
            raise TooLarge(size, self._max_payload)
        if header:
            command = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(header), size, header, data)
        else:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, size, data)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._is_sending:
            self._send_pending()

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
        """Like `ask`, but sends at once: the future ends as `ask` would, and several can be under way together.

        Raises:
            ConnectionClosed, ConnectionLost, JobError: As `post`, or if it was closed.
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
        """Send a request when the connection stands, and wait for its answer.

        Args:
            subject: Where to.
            data: What.
            header: A whole header block, or none.
            timeout: Seconds to wait for the answer.
            once: Whether one answer comes and no more, as to what a stream stores: cheaper for the server.
            seen: Whether other clients see the request, as they do one that they are to answer. Its reply subject has
                `.seen.` behind the prefix: who may answer it needs no right to answer in the server's stead.
            again: Whether to ask again where the answer stays away: of a question that changes nothing.

        Raises:
            ConnectionLost: If the connection broke, or `timeout` seconds passed, with the request under way.
            NoResponders: If nobody listens on the subject.
            NotPermitted: If this user may not publish on it.
            WrongLoop: If this is not the loop that it was opened in.
            JobError: `RunnerUnavailable` or `Validation`: nothing was sent.
        """
        # Not by `check`: every submit comes along here.
        if _get_running_loop() is not self.home.loop:
            raise self.home.refusal()
        if not self._up.is_set():
            await self.when_up(timeout)
        return await self.ask_soon(subject, data, header=header, timeout=timeout, once=once, seen=seen, again=again)

    async def receive(self, subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
        """Subscribe a plain function, called as messages come in, in order; it must not block.

        Returns:
            The subscription's id, for `stop_receiving`.

        Raises:
            WrongLoop: If this is not the loop that it was opened in.
            ConnectionClosed: If the connection was closed.
        """
        self.home.check()
        return await super().receive(subject, receiver, queue=queue)

    def _on_fork(self) -> None:
        # The socket is the parent's too: not a byte may be written here, and no close may say good-bye on it.
        self._status = Client.CLOSED
        self._up.clear()

    async def _process_err(self, err_msg: str) -> None:
        refusal = refusal_in(err_msg)
        if refusal is not None and (
            self._answers.refuse(refusal) if refusal.is_publish else self._refused.note(refusal)
        ):
            return
        await super()._process_err(err_msg)

    async def _process_op_err(self, e: Exception) -> None:
        if self._up.is_set():
            text = str(e).removeprefix("nats: ") or type(e).__name__
            logger.warning("the connection to NATS is lost (%s); connecting again until it stands", text)
        # At once: whoever waits for the connection must not take this moment for one in which it stands.
        self._up.clear()
        await super()._process_op_err(e)

    async def _on_disconnect(self) -> None:
        self._up.clear()
        self._pending.clear()
        self._pending_data_size = 0
        self._answers.fail("the connection to NATS broke while a request was under way")

    async def _on_reconnect(self) -> None:
        self._up.set()
        logger.info("connected to NATS again")
        for callback in tuple(self.on_reconnect):
            try:
                callback()
            except Exception:
                logger.exception("a function to be called after a new connection failed")

    async def _on_error(self, error: Exception) -> None:
        if self._fatal is not None and not self._fatal.done():
            # The first connection: who was refused by every server, or by one for good, need not wait for the timeout.
            self._refusals += isinstance(error, OSError | NoTls) and not isinstance(error, TimeoutError)
            if "authorization" in str(error).lower() or self._refusals >= len(self._server_pool):
                self._fatal.set_result(error)
        elif not self._up.is_set() or (refusal_in(str(error)) and not self._refused.is_time_to_warn()):
            logger.debug("NATS: %s", error)
        else:
            logger.warning("NATS: %s", str(error).removeprefix("nats: ") or type(error).__name__)
