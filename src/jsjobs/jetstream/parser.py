"""The client side of the NATS wire protocol, for bytes that a stranger may have chosen.

nats-py's own parser matches each line with several regular expressions and lets an odd subject or header block end its
read loop for good. This one splits on the single spaces the server writes, hands subjects and header blocks on as the
bytes they are, and delivers a subscription's messages straight to a plain function where one is registered. All else,
which nats-py handles in coroutines, is put aside, in order, for a task.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.errors import ProtocolError

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = logging.getLogger("jsjobs.connection")

Receiver = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message as it came: subject, reply subject (empty: none), raw header block (empty: none), body."""

_MAX_LINE = 1 << 20
"""No line is longer: the longest is the server's INFO, a few KiB; without a bound a broken peer fills the memory."""
_CRLF = b"\r\n"
_MESSAGE = (b"MSG ", b"HMSG ")


class WireParser:
    """Feeds what the server sends to the client; stands in for `nats.protocol.parser.Parser`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rest = b""
        self.receivers: dict[bytes, Receiver] = {}
        """Subscription id, as the wire writes it, to the function that takes its messages."""
        self.aside: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        """To be awaited one after the other: messages of nats-py's own subscriptions, and what the server says."""

    def reset(self) -> None:
        """Forget a half-received message: the connection is a new one."""
        self._rest = b""
        self.aside.clear()

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the server.

        Raises:
            ProtocolError: If they are no NATS protocol: the connection must be made anew.
        """
        buffer = self._rest + data if self._rest else data
        position = 0
        while (end := buffer.find(_CRLF, position)) >= 0:
            line = buffer[position:end]
            if line.startswith(_MESSAGE):
                after = self._message(line, buffer, end + 2)
                if not after:
                    break
                position = after
            else:
                position = end + 2
                self._control(line)
        else:
            if len(buffer) - position > _MAX_LINE:
                raise ProtocolError
        self._rest = buffer[position:]

    def _message(self, line: bytes, buffer: bytes, start: int) -> int:
        """Deliver one message; where the next one begins, or 0 while this one has not come whole."""
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
            return 0
        header, body = buffer[start:header_end], buffer[header_end:end]
        receiver = self.receivers.get(sid)
        if receiver is None:
            self.aside.append(partial(self._hand_on, sid, subject, reply, body, header))
            return end + 2
        # One message that cannot be handled must cost nothing but itself.
        try:
            receiver(subject, reply, header, body)
        except (Exception, asyncio.CancelledError):  # a plain function's is never this task's own cancellation
            logger.exception("a message on %.200r could not be handled and was skipped", subject)
        return end + 2

    async def _hand_on(self, sid: bytes, subject: bytes, reply: bytes, body: bytes, header: bytes) -> None:
        try:
            await self._client._process_msg(int(sid), subject, reply, body, header)  # noqa: SLF001 - what nats-py's own parser calls
        except Exception:
            logger.exception("a message on %.200r could not be handled and was skipped", subject)

    def _control(self, line: bytes) -> None:
        client = self._client
        word = line[:5].upper()
        if word.startswith(b"PING"):
            self.aside.append(client._process_ping)  # noqa: SLF001 - as above
        elif word.startswith(b"PONG"):
            self.aside.append(client._process_pong)  # noqa: SLF001
        elif word.startswith(b"INFO "):
            self.aside.append(partial(client._process_info, json.loads(line[5:])))  # noqa: SLF001
        elif word.startswith(b"-ERR "):
            text = line[5:].decode("utf-8", "replace")
            self.aside.append(partial(client._process_err, text))  # noqa: SLF001
        elif not word.startswith(b"+OK"):
            raise ProtocolError
