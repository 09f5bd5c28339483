"""nats-py's client with the parts replaced that end a long-running process silently. Each is pinned by a test.

Private methods are overridden on purpose, for exactly one minor version of nats-py (see `pyproject.toml`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nats import errors as nats_errors
from nats.aio.client import Srv

from jsjobs.jetstream.credentials import check_creds
from jsjobs.jetstream.refusals import refusal_in
from jsjobs.jetstream.wired import WiredClient
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = get_logger("jsjobs.connection")

_PING = b"PING\r\n"
_CLOSE_WITHIN = 2.0  # seconds to send what waits; a peer that takes nothing must not hold up a close


class NoTls(nats_errors.Error):
    """The server offers no encryption where it was asked for."""

    def __str__(self) -> str:
        return "TLS was asked for, and the server does not require it: nothing was said to it"


class HardenedClient(WiredClient):
    """A client that only `close` ends."""

    def __init__(self) -> None:
        super().__init__()
        self.needs_tls = False
        """Whether TLS was asked for, by a certificate or the URL of any server."""
        self.make_tls: Callable[[], ssl.SSLContext] | None = None
        """Reads the TLS files anew: they are replaced while the process runs."""

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """As nats-py's, but behind what was posted: there, a flush can be answered before its messages are sent."""
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        self._pending.append(_PING)
        self._pending_data_size += len(_PING)
        await self._flush_pending()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """As nats-py's, but where TLS was asked for nothing is said without; there, a plain server gets the password.

        Somebody in between could take the server's offer of TLS away.
        """
        if initial_connection and self.needs_tls and not info.get("tls_required"):
            raise NoTls
        await super()._process_info(info, initial_connection)

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        """As nats-py's, but a file that was exchanged for a broken one is an error; there, it is read for ever."""
        try:
            check_creds(Path(str(creds)))
        except JobError as error:
            raise nats_errors.Error(f"nats: {error.message}") from None
        return bytearray(super()._read_creds_user_jwt(creds))

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
        if refusal_in(err_msg) is None:
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
                _end_if_cancelled()
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
            await self._end_reconnecting()
            await super()._close(status, do_cbs)
        finally:
            give_up.cancel()

    async def _end_reconnecting(self) -> None:
        """End the attempts to connect again; nats-py closes beside one that goes on, which opens what was closed."""
        while (task := self._reconnection_task) is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    async def _connect_to_server(self, s: Srv) -> None:
        """As nats-py's, but TLS files are read anew; an attempt that got no further than a socket leaves none open."""
        _end_if_cancelled()
        self._abort()
        if self.make_tls is not None:
            try:
                self.options["tls"] = self.make_tls()
            except JobError as error:  # in the middle of being replaced
                raise nats_errors.Error(f"nats: {error.message}") from None
        try:
            await super()._connect_to_server(s)
        finally:
            _end_if_cancelled()

    async def _process_connect_init(self) -> None:
        """As nats-py's, but what is cancelled ends."""
        try:
            await super()._process_connect_init()
        finally:
            _end_if_cancelled()

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


def _end_if_cancelled() -> None:
    """End a task of nats-py's that is to end.

    `asyncio.wait_for` of Python 3.11 loses a cancellation that comes with the end of what it waits for. The task then
    connects for ever, and a loop that is closed waits for it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
