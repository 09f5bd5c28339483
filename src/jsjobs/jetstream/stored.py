"""What a stream holds, message by message, without a consumer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from jsjobs.jetstream.api import parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.wire import value_of


class Stored(NamedTuple):
    """A message as it lies in its stream."""

    sequence: int
    subject: bytes
    stored_at: datetime
    header: bytes
    data: bytes


async def stored(connection: Connection, stream: str, subject: str = ">", *, after: int = 0) -> AsyncIterator[Stored]:
    """The messages of a stream in their order, those that come meanwhile included.

    Args:
        connection: To the server.
        stream: A stream with direct access, as all of ours are.
        subject: Only messages on subjects like this one.
        after: Only messages after this sequence.

    Raises:
        NoResponders: If the stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    direct = f"$JS.API.DIRECT.GET.{stream}".encode()
    while True:
        request = {"seq": after + 1, "next_by_subj": subject}
        header, data = await connection.ask(direct, json.dumps(request).encode())
        sequence, own_subject = value_of(header, b"Nats-Sequence"), value_of(header, b"Nats-Subject")
        stored_at = value_of(header, b"Nats-Time-Stamp")
        if sequence is None or own_subject is None or stored_at is None:
            return
        after = int(sequence)
        yield Stored(after, own_subject, parse_time(stored_at.decode()), header, data)
