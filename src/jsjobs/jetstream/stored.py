"""What a stream holds, read by direct gets: one message, or one after the other, without a consumer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api import parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.wire import value_of


class StoredMessage(NamedTuple):
    """A message as it lies in its stream."""

    sequence: int
    subject: bytes
    stored_at: datetime
    header: bytes
    data: bytes


async def find_stored(connection: Connection, stream: str, request: dict[str, Any]) -> StoredMessage | None:
    """The message that a direct get asks for; None if there is none.

    Args:
        connection: To the server.
        stream: A stream with direct access, as all of ours are.
        request: In the server's own words, such as `{"seq": 7}` or `{"seq": 7, "next_by_subj": "a.>"}`.

    Raises:
        NoResponders: If the stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    header, data = await connection.ask(f"$JS.API.DIRECT.GET.{stream}".encode(), json.dumps(request).encode())
    sequence, subject = value_of(header, b"Nats-Sequence"), value_of(header, b"Nats-Subject")
    stored_at = value_of(header, b"Nats-Time-Stamp")
    if sequence is None or subject is None or stored_at is None:
        return None
    return StoredMessage(int(sequence), subject, parse_time(stored_at.decode()), header, data)


async def stored(
    connection: Connection, stream: str, subject: str = ">", *, after: int = 0
) -> AsyncIterator[StoredMessage]:
    """The messages of a stream in their order, those that come meanwhile included.

    Args:
        connection: To the server.
        stream: As for `find_stored`.
        subject: Only messages on subjects like this one.
        after: Only messages after this sequence.

    Raises:
        JobError: As `find_stored`.
    """
    while message := await find_stored(connection, stream, {"seq": after + 1, "next_by_subj": subject}):
        after = message.sequence
        yield message
