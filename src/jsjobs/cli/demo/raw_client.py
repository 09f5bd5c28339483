"""A publisher that knows only the NATS protocol, over a bare socket, as any client in any language could be."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

INBOX = "_INBOX.a-socket"
PATIENCE_S = 10.0


async def publish(nats_url: str, subject: str, body: bytes) -> dict[str, Any]:
    """Publish one message, and return the server's acknowledgement.

    Raises:
        OSError: If the server cannot be reached, or does not answer as it should.
    """
    address = urlsplit(nats_url)
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            lines = [
                b'CONNECT {"verbose":false}',
                f"SUB {INBOX} 1".encode(),
                f"PUB {subject} {INBOX} {len(body)}".encode(),
                body,
            ]
            writer.write(b"\r\n".join(lines) + b"\r\n")
            return await _acknowledgement(reader, writer)
        finally:
            writer.close()


async def _acknowledgement(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
    while line := (await reader.readline()).strip():
        verb, *words = line.split()
        if verb == b"PING":
            writer.write(b"PONG\r\n")
        elif verb == b"MSG":
            answer: dict[str, Any] = json.loads(await reader.readexactly(int(words[-1])))
            if "seq" in answer:
                return answer
            raise ConnectionError(f"the server did not take the message: {answer}")
        elif verb == b"-ERR":
            raise ConnectionError(f"the server refused: {line.decode()}")
    raise ConnectionError("the server closed the connection")
