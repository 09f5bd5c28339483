"""The client side of the NATS wire protocol, for bytes that a stranger may have chosen.

nats-py's own parser matches each line with several regular expressions and lets an odd subject or header block end its
read loop for good. This one splits on the single spaces the server writes, hands subjects and header blocks on as the
bytes they are, and delivers a subscription's messages straight to a plain function where one is registered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.errors import ProtocolError

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = logging.getLogger("jsjobs.connection")

Receiver = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message as it came: subject, reply subject (empty: none), raw header block (empty: none), body."""

_MAX_LINE = 1 << 20
"""No line is longer: the longest is the server's INFO, a few KiB; without a bound a broken peer fills the memory."""
_CRLF = b"\r\n"


class WireParser:
    """Feeds what the server sends to the client; stands in for `nats.protocol.parser.Parser`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rest = b""
        self.receivers: dict[bytes, Receiver] = {}
        """Subscription id, as the wire writes it, to the function that takes its messages."""

    def reset(self) -> None:
        """Forget a half-received message: the connection is a new one."""
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes from the server.

        Raises:
            ProtocolError: If they are no NATS protocol: the connection must be made anew.
        """
        buffer = self._rest + data if self._rest else data
        position, size = 0, len(buffer)
        while position < size:
            end = buffer.find(_CRLF, position)
            if end < 0:
                if size - position > _MAX_LINE:
                    raise ProtocolError
                break
            line = buffer[position:end]
            if line.startswith((b"MSG ", b"HMSG ")):
                after = await self._message(line, buffer, end + 2)
                if after is None:
                    break
                position = after
            else:
                position = end + 2
                await self._control(line)
        self._rest = buffer[position:]

    async def _message(self, line: bytes, buffer: bytes, start: int) -> int | None:
        """Deliver one message; where the next one begins, or None while this one has not come whole."""
        words = line.split(b" ")
        with_header = words[0] == b"HMSG"
        try:
            end = start + int(words[-1])
            header_end = start + int(words[-2]) if with_header else start
            subject, sid = words[1], words[2]
            optional = len(words) - (5 if with_header else 4)
            reply = words[3] if optional else b""
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        if not (start <= header_end <= end and 0 <= optional <= 1):
            raise ProtocolError
        if len(buffer) < end + 2:
            return None
        header, body = buffer[start:header_end], buffer[header_end:end]
        receiver = self.receivers.get(sid)
        # One message that cannot be handled must cost nothing but itself.
        if receiver is not None:
            try:
                receiver(subject, reply, header, body)
            except (Exception, asyncio.CancelledError):  # a plain function's is never this task's own cancellation
                logger.exception("a message on %.200r could not be handled and was skipped", subject)
            return end + 2
        try:
            await self._client._process_msg(int(sid), subject, reply, body, header)  # noqa: SLF001 - what nats-py's own parser calls
        except Exception:
            logger.exception("a message on %.200r could not be handled and was skipped", subject)
        return end + 2

    async def _control(self, line: bytes) -> None:
        client = self._client
        word = line[:5].upper()
        if word.startswith(b"PING"):
            await client._process_ping()  # noqa: SLF001 - as above
        elif word.startswith(b"PONG"):
            await client._process_pong()  # noqa: SLF001
        elif word.startswith(b"INFO "):
            await client._process_info(json.loads(line[5:]))  # noqa: SLF001
        elif word.startswith(b"-ERR "):
            await client._process_err(line[5:].decode("utf-8", "replace"))  # noqa: SLF001
        elif not word.startswith(b"+OK"):
            raise ProtocolError
