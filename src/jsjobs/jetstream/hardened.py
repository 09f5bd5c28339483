"""nats-py's client with the parts replaced that end a long-running process silently. Each is pinned by a test.

Private methods are overridden on purpose, for exactly one minor version of nats-py (see `pyproject.toml`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from nats import errors as nats_errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, Transport

from jsjobs.jetstream.direct import DirectWire
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.parser import Receiver, WireParser

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger("jsjobs.connection")

_PING = b"PING\r\n"
_READ_SIZE = 128 * 1024  # a burst of acks in one system call
_ROOM_WITHIN = 5.0  # seconds to wait for room; what is posted then only takes more memory
_CLOSE_WITHIN = 2.0  # seconds to send what waits; a peer that takes nothing must not hold up a close


class HardenedClient(Client):
    """A client that only `close` ends."""

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
        wire = self._wire = DirectWire(self._parser, writer)
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

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """As nats-py's, but behind what was posted: there, a flush can be answered before its messages are sent."""
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        self._pending.append(_PING)
        self._pending_data_size += len(_PING)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        """As nats-py's, but a flush that was given up costs nothing; there, its late answer ends the read loop."""
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)
            self._pongs_received += 1
            self._pings_outstanding = 0

    async def _process_err(self, err_msg: str) -> None:
        """As nats-py's, but an error is a reason to connect again: nats-py closes for good on all but a few."""
        error = nats_errors.Error(f"nats: {err_msg.strip(chr(39))}")
        self._err = error
        await self._error_cb(error)
        if "permissions violation" not in err_msg:
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        """As nats-py's, but an exception it does not expect is tried again; there, it ends all attempts.

        The old connection is cut first: nats-py waits until it has sent the rest, which a peer that hangs never takes.
        """
        while not self.is_closed:
            self._abort()
            try:
                await super()._attempt_reconnect()
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("connecting to NATS again failed in an unexpected way; trying on")
                await asyncio.sleep(1)
            else:
                return

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """As nats-py's, but a broken connection or a peer that hangs neither fails it nor holds it up."""
        if self._flush_queue is None:  # `connect` did not even come to look for a server
            self._status = status
            return
        give_up = asyncio.get_running_loop().call_later(_CLOSE_WITHIN, self._abort)
        try:
            if self._transport and self.is_connected and self._pending:
                with contextlib.suppress(OSError):
                    self._transport.writelines(self._pending)
                    self._pending = []
                    await self._transport.drain()  # type: ignore[no-untyped-call]
            self._pending = []
            self._pending_data_size = 0
            await super()._close(status, do_cbs)
        finally:
            give_up.cancel()

    async def _connect_to_server(self, s: Srv) -> None:
        """As nats-py's, but an attempt that got no further than a socket leaves none open."""
        self._abort()
        await super()._connect_to_server(s)

    def _abort(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """As nats-py's, but a subject that is no UTF-8 is a subject like any other."""
        return self.msg_class(
            subject=subject.decode("utf-8", "backslashreplace"),
            reply=reply.decode("utf-8", "backslashreplace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )
