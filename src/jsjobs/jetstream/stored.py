"""What a stream holds, read without a consumer: one message, or one after the other."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api import Garbled, find, parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders
from jsjobs.jetstream.reading import read_one
from jsjobs.jetstream.wire import value_of

_ANSWER_WITHIN = 5.0


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
    header, data = await read_one(connection, stream, request)
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
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Garbled(repr(answer).encode(), f"reading a message of {stream}") from error


async def read_batch(
    connection: Connection, stream: str, request: dict[str, Any], take: Callable[[bytes, bytes], None]
) -> bytes:
    """Read many messages, with one direct get where this user may; the header of the answer that ends them.

    Args:
        connection: To the server.
        stream: As for `find_stored`.
        request: In the server's own words, such as `{"seq": 7, "next_by_subj": "a.>", "batch": 100}`.
        take: Called with the headers and the body of each.

    Raises:
        NoResponders: If the stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached, or the connection breaks on the way.
    """
    wanted = {name: value for name, value in request.items() if name not in {"batch", "max_bytes"}}
    size = 0
    for _ in range(request["batch"]):
        header, data = await read_one(connection, stream, wanted)
        if connection.direct_gets_refused is None:
            return await _read_directly(connection, stream, request, take)
        place = place_of(header)
        if place is None:
            return b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n"
        take(header, data)
        wanted = {"next_by_subj": request["next_by_subj"], "seq": place[0] + 1}
        size += len(header) + len(data)
        if size >= request.get("max_bytes", sys.maxsize):
            break
    return b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 1\r\n\r\n"  # perhaps: the next look tells


async def _read_directly(
    connection: Connection, stream: str, request: dict[str, Any], take: Callable[[bytes, bytes], None]
) -> bytes:
    await connection.when_up()
    end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_answer(_subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        if value_of(header, b"Nats-Sequence") is not None:
            take(header, data)
        elif not data and not end.done():
            end.set_result(header)

    def on_reconnect() -> None:
        if not end.done():
            end.set_exception(ConnectionLost("the connection to NATS broke while a request was under way"))

    inbox = connection.new_inbox().encode()
    subscription = await connection.receive(inbox, on_answer)
    connection.on_reconnect.append(on_reconnect)
    try:
        connection.post(f"$JS.API.DIRECT.GET.{stream}".encode(), json.dumps(request).encode(), reply=inbox)
        async with asyncio.timeout(_ANSWER_WITHIN):
            ended = await end
    except TimeoutError as error:
        raise ConnectionLost("NATS did not answer in time") from error
    finally:
        connection.on_reconnect.remove(on_reconnect)
        await connection.stop_receiving(subscription, drain=False)
    if ended.startswith(b"NATS/1.0 503"):
        raise NoResponders(f"the stream {stream} does not exist: run `jsjobs streams apply`")
    return ended


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
