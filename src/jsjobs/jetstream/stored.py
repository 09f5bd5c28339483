"""What a stream holds, read without a consumer: one message, or one after the other."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api import Garbled, find, parse_time
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
    subject = f"$JS.API.DIRECT.GET.{stream}".encode()
    header, data = await connection.ask(subject, json.dumps(request).encode(), again=True)
    place, stored_on = place_of(header), value_of(header, b"Nats-Subject")
    if place is None or stored_on is None:
        return None
    return StoredMessage(place[0], stored_on, place[1], header, data)


def place_of(header: bytes) -> tuple[int, datetime] | None:
    """The sequence of a message that was looked up, and when it was stored, as the server added them to its headers.

    None where it did not: there is no such message, or somebody else answered.
    """
    sequence, stored_at = value_of(header, b"Nats-Sequence"), value_of(header, b"Nats-Time-Stamp")
    if sequence is None or stored_at is None:
        return None
    try:
        return int(sequence), parse_time(stored_at.decode())
    except ValueError:
        return None


async def find_at_leader(connection: Connection, stream: str, request: dict[str, Any]) -> StoredMessage | None:
    """As `find_stored`, but as the stream's leader has it: another replica may lag behind; None also without a stream.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    answer = await find(connection, f"STREAM.MSG.GET.{stream}", request)
    if answer is None:
        return None
    try:
        message = answer["message"]
        header, data = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
        return StoredMessage(
            int(message["seq"]), message["subject"].encode(), parse_time(message["time"]), header, data
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise Garbled(repr(answer).encode(), f"reading a message of {stream}") from None


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
