"""nats-py's client with its ways in and out replaced by short ones: plain functions take messages, as they come.

Private methods are overridden on purpose, for exactly one minor version of nats-py (see `pyproject.toml`).
"""

from __future__ import annotations

import asyncio
import contextlib

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, Transport

from jsjobs.jetstream.direct import DirectWire
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.parser import Receiver, WireParser
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

_READ_SIZE = 128 * 1024  # a burst of frames in one call
_ROOM_WITHIN = 5.0  # seconds to wait for room; what is posted then only takes more memory


class WiredClient(Client):
    """Subscribes plain functions, and reads and writes without a stream, a queue or a task between."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._parser = WireParser(self)
        self._wire: DirectWire | None = None
        self._is_sending = False
        self._kick: asyncio.Future[None] = self._loop.create_future()
        self._kick.set_result(None)  # wakes nats-py's flusher; nobody waits for it
        self._ps = self._parser  # type: ignore[assignment] # stands in for nats-py's

    @property
    def is_crowded(self) -> bool:
        """Whether more was posted than is on its way, so that there is something to wait for in `room`."""
        return bool(self._pending_data_size > self._max_pending_size)

    @property
    def is_behind(self) -> bool:
        """Whether the server has more for us than was read."""
        return self._parser.is_midway

    async def room(self) -> None:
        """Wait until what was posted is mostly on its way, so that a fast publisher does not fill the memory."""
        flusher = self._flush_queue
        if flusher is not None and self.is_crowded:
            # Not nats-py's `_flush_pending`: it swallows the caller's cancellation.
            sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROOM_WITHIN):
                    await flusher.put(sent)
                    await sent

    async def receive(self, subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
        """Subscribe a plain function, called as messages come in, in order; it must not block.

        Returns:
            The subscription's id, for `stop_receiving`.

        Raises:
            ConnectionClosed: If the connection was closed.
        """
        # Registered before the server can answer: `subscribe` only queues the command.
        sid = self._sid + 1
        self._parser.receivers[b"%d" % sid] = receiver
        try:
            await self.subscribe(subject.decode(), queue=queue)
        except nats_errors.ConnectionClosedError:
            self._forget(sid)
            raise ConnectionClosed from None
        except BaseException:
            self._forget(sid)  # the id may yet be another's
            raise
        return sid

    async def stop_receiving(self, sid: int, *, drain: bool = True) -> None:
        """Unsubscribe.

        Args:
            sid: The subscription's id.
            drain: Whether to return only when all that the server had sent by then has reached the function; it costs
                a round trip.
        """
        # A connection that breaks while we wait must not bring it back: the server would deliver to nobody.
        self._remove_sub(sid)
        try:
            if self.is_connected:
                await self._send_unsubscribe(sid)
                if drain:
                    await self.flush(timeout=2)
        except (TimeoutError, nats_errors.Error, OSError):
            logger.debug("the connection broke while unsubscribing", exc_info=True)
        finally:
            self._forget(sid)

    def listen(self, subject: bytes, receiver: Receiver, *, queue: str) -> int:
        """As `receive`, without a wait: for a subject that is known to be valid, of an open connection."""
        self._sid += 1
        sid = self._sid
        self._parser.receivers[b"%d" % sid] = receiver
        # What nats-py sends again on each new connection; sent twice, the server takes no notice of the second.
        self._subs[sid] = Subscription(self, sid, subject.decode(), queue)
        self._send_soon(b"SUB %b %b %d\r\n" % (subject, queue.encode(), sid))
        return sid

    def listen_no_more(self, sid: int) -> None:
        """Unsubscribe without a wait; what the server had sent by then still reaches the function, until `forget`."""
        self._remove_sub(sid)
        self._send_soon(b"UNSUB %d\r\n" % sid)

    def forget(self, sid: int) -> None:
        """Call the function of an ended subscription no more."""
        self._forget(sid)

    def _send_soon(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._send_pending()

    def _forget(self, sid: int) -> None:
        self._remove_sub(sid)
        self._parser.receivers.pop(b"%d" % sid, None)

    async def _read_loop(self) -> None:
        """As nats-py's, but whatever goes wrong leads to a new connection; there, the loop just ends."""
        transport = self._transport
        try:
            if isinstance(transport, TcpTransport):
                await self._read_bytes(transport)
            elif transport is not None:
                await self._read_frames(transport)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - see above
            await self._process_op_err(error)

    async def _read_bytes(self, transport: TcpTransport) -> None:
        reader, writer = transport._io_reader, transport._io_writer  # noqa: SLF001 - nats-py has no other word for them
        assert reader is not None
        assert writer is not None
        # What is read wakes tasks that have something to send: it goes behind them, in the same turn of the loop.
        wire = self._wire = DirectWire(self._parser, writer, self._send_pending)
        try:
            await wire.run(reader)
        finally:
            if self._wire is wire:
                self._wire = None

    async def _read_frames(self, transport: Transport) -> None:
        """Read what comes in frames of its own: a WebSocket's."""
        aside = self._parser.aside
        while True:
            if transport.at_eof():
                raise nats_errors.UnexpectedEOF
            self._parser.feed(await transport.read(_READ_SIZE))
            while aside:
                await aside.popleft()()

    def _send_pending(self) -> None:
        """Wake whoever sends what is pending, once for all that is posted in one turn of the loop."""
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send_now)

    def _send_now(self) -> None:
        self._is_sending = False
        wire, flusher = self._wire, self._flush_queue
        if not self._pending or self._status != Client.CONNECTED:
            return  # what a break cut short is never sent, not even in its last moment
        if wire is not None and wire.takes_more:
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_data_size = 0
            wire.write(data)
        elif flusher is not None and flusher.empty():
            flusher.put_nowait(self._kick)
