"""The client side of the NATS wire protocol, for bytes that a stranger may have chosen.

nats-py's own parser matches each line with several regular expressions and lets an odd subject or header block end its
read loop for good. This one splits on the single spaces the server writes, hands subjects and header blocks on as the
bytes they are, and delivers a subscription's messages straight to a plain function where one is registered. All else,
which nats-py handles in coroutines, is put aside, in order, for a task.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.errors import ProtocolError

if TYPE_CHECKING:
    from nats.aio.client import Client

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

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
        self._parts: list[bytes] = []
        """Of a message whose size is known; put together once it is whole, not with each part that comes."""
        self._missing = 0
        self.receivers: dict[bytes, Receiver] = {}
        """Subscription id, as the wire writes it, to the function that takes its messages."""
        self.aside: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        """To be awaited one after the other: messages of nats-py's own subscriptions, and what the server says."""

    @property
    def is_midway(self) -> bool:
        """Whether a part of a message has come and its rest has not: the server has more to send."""
        return bool(self._rest or self._parts)

    def reset(self) -> None:
        """Forget a half-received message: the connection is a new one."""
        self._rest = b""
        self._parts.clear()
        self._missing = 0
        self.aside.clear()

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the server.

        Raises:
            ProtocolError: If they are no NATS protocol: the connection must be made anew.
        """
        if self._missing:
            self._parts.append(data)
            self._missing -= min(len(data), self._missing)
            if self._missing:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        buffer = self._rest + data if self._rest else data
        position, size, receivers = 0, len(buffer), self.receivers
        while (end := buffer.find(_CRLF, position)) >= 0:
            line = buffer[position:end]
            if not line.startswith(_MESSAGE):
                position = end + 2
                self._control(line)
                continue
            subject, sid, reply, header_size, whole = _read_line(line)
            start = end + 2
            if size < start + whole + 2:
                self._missing = start + whole + 2 - size
                self._parts.append(buffer[position:])
                self._rest = b""
                return
            body_at, position = start + header_size, start + whole + 2
            header, body = buffer[start:body_at], buffer[body_at : start + whole]
            receiver = receivers.get(sid)
            if receiver is None:
                self.aside.append(partial(self._hand_on, sid, subject, reply, body, header))
                continue
            # One message that cannot be handled must cost nothing but itself.
            try:
                receiver(subject, reply, header, body)
            except (Exception, asyncio.CancelledError):  # a plain function's is never this task's own cancellation
                logger.exception("a message on %.200r could not be handled and was skipped", subject)
        if size - position > _MAX_LINE:
            raise ProtocolError
        self._rest = buffer[position:]

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


def _read_line(line: bytes) -> tuple[bytes, bytes, bytes, int, int]:
    """Subject, subscription, reply subject (empty: none), size of the header block and of the whole, in bytes."""
    words = line.split(b" ")
    try:
        if line.startswith(b"H"):
            header_size, optional = int(words[-2]), len(words) - 5
        else:
            header_size, optional = 0, len(words) - 4
        whole = int(words[-1])
        if not (0 <= header_size <= whole and 0 <= optional <= 1):
            raise ProtocolError
        return words[1], words[2], words[3] if optional else b"", header_size, whole
    except (ValueError, IndexError) as error:
        raise ProtocolError from error
