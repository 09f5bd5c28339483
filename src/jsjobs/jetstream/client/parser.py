"""The client side of the NATS wire protocol, for bytes that a stranger may have chosen.

nats-py's own parser matches each line with several regular expressions, and an odd subject or header block ends its
read loop for good. This one splits on the single spaces that the server writes. It passes subjects and header blocks on
as raw bytes, and delivers a subscription's messages straight to a plain function.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from jsjobs.jetstream.client.interface import Receiver
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

_MAX_LINE = 1 << 20
"""Limit for one line, in bytes. The longest is the server's INFO, a few KiB; without a limit a broken peer would
fill the memory."""
_CRLF = b"\r\n"
_MESSAGE = (b"MSG ", b"HMSG ")


class ProtocolError(OSError):
    """The peer does not speak the NATS protocol: a new connection must be made."""

    def __init__(self) -> None:
        super().__init__("the peer does not speak the NATS protocol")


class Controls(Protocol):
    """Handlers of what the server sends besides messages."""

    def on_ping(self) -> None:
        """Handle a PING."""

    def on_pong(self) -> None:
        """Handle a PONG."""

    def on_info(self, info: dict[str, Any]) -> None:
        """Handle an INFO, in which the server describes itself and its cluster."""

    def on_err(self, text: str) -> None:
        """Handle an -ERR, whose text is in single quotes."""


class WireParser:
    """Split what the server sends into messages, which go to their receivers, and controls."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._rest = b""
        self._parts: list[bytes] = []
        """Parts of a message whose size is known. They are joined once it is complete, not with each part."""
        self._missing = 0
        self.receivers: dict[bytes, Receiver] = {}
        """The function that takes a subscription's messages, by subscription id as the wire writes it. Messages of
        other subscriptions are dropped."""

    @property
    def is_midway(self) -> bool:
        """Return whether only part of a message has arrived, so that the server has more to send."""
        return bool(self._rest or self._parts)

    def reset(self) -> None:
        """Forget a half-received message, because the connection is a new one."""
        self._rest = b""
        self._parts.clear()
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Parse the next bytes from the server.

        Raises:
            ProtocolError: If they are not NATS protocol: a new connection must be made.
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
            if receiver is None:  # the subscription has ended
                continue
            # A message that cannot be handled must affect no other.
            try:
                receiver(subject, reply, header, body)
            except (Exception, asyncio.CancelledError):  # a plain function's is never this task's own cancellation
                logger.exception("a message on %.200r could not be handled and was skipped", subject)
        if size - position > _MAX_LINE:
            raise ProtocolError
        self._rest = buffer[position:]

    def _control(self, line: bytes) -> None:
        word = line[:5].upper()
        if word.startswith(b"PING"):
            self._controls.on_ping()
        elif word.startswith(b"PONG"):
            self._controls.on_pong()
        elif word.startswith(b"INFO "):
            self._controls.on_info(json.loads(line[5:]))
        elif word.startswith(b"-ERR "):
            self._controls.on_err(line[5:].decode("utf-8", "replace"))
        elif not word.startswith(b"+OK"):
            raise ProtocolError


def _read_line(line: bytes) -> tuple[bytes, bytes, bytes, int, int]:
    """Return subject, subscription, reply subject (empty: none), header size and total size in bytes."""
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
