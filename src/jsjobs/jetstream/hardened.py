"""nats-py's client with the parts replaced that end a long-running process silently. Each is pinned by a test.

Private methods are overridden on purpose, for exactly one minor version of nats-py (see `pyproject.toml`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nats import errors as nats_errors
from nats.aio.client import Client

from jsjobs.jetstream.parser import WireParser

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger("jsjobs.connection")

_READ_SIZE = 128 * 1024  # a burst of acks in one system call


class HardenedClient(Client):
    """A client that only `close` ends."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = WireParser(self)
        self._ps = self._parser  # type: ignore[assignment] # stands in for nats-py's

    async def _read_loop(self) -> None:
        """As nats-py's, but whatever goes wrong leads to a new connection; there, the loop just ends."""
        while not (self.is_closed or self.is_reconnecting or self._transport is None):
            try:
                if self._transport.at_eof():
                    raise nats_errors.UnexpectedEOF
                await self._ps.parse(await self._transport.read(_READ_SIZE))
            except asyncio.CancelledError:
                break
            except Exception as error:  # noqa: BLE001 - see above
                await self._process_op_err(error)
                break

    async def _process_err(self, err_msg: str) -> None:
        """As nats-py's, but an error is a reason to connect again: nats-py closes for good on all but a few."""
        error = nats_errors.Error(f"nats: {err_msg.strip(chr(39))}")
        self._err = error
        await self._error_cb(error)
        if "permissions violation" not in err_msg:
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        """As nats-py's, but an exception it does not expect is tried again; there, it ends all attempts."""
        while True:
            try:
                await super()._attempt_reconnect()
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("connecting to NATS again failed in an unexpected way; trying on")
                await asyncio.sleep(1)
            else:
                return

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
