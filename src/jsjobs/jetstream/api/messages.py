"""Read messages of a stream without a consumer: a single one, or one after the other.

Messages are read by direct get, which costs the server least. Users that may not use it, such as viewers, read through
the JetStream API (docs/server-quirks.md#a-direct-get-may-ask-for-a-whole-stream). Any replica answers a direct get, and
may lag behind; only the leader answers the API.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import NamedTuple

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.errors import MESSAGE_NOT_FOUND, STREAM_NOT_FOUND, InvalidResponse, Refusal, api_error
from jsjobs.jetstream.api.requests import read_answer
from jsjobs.jetstream.api.types import BatchRequest, MessageRequest
from jsjobs.jetstream.client.connection import DEFAULT_TIMEOUT, Connection
from jsjobs.jetstream.client.errors import ConnectionLost, NoResponders
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.protocol.headers import value_of
from jsjobs.model.times import parse_rfc3339, rfc3339

_NO_MESSAGE = Reply(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
_ANSWER_WITHIN = 5.0


class StoredMessage(NamedTuple):
    """A message as its stream stores it."""

    sequence: int
    subject: bytes
    stored_at: datetime
    header: bytes
    data: bytes


async def read_one(
    connection: Connection, stream: str, request: MessageRequest, *, timeout: float = DEFAULT_TIMEOUT
) -> Reply:
    """Return the answer to a request for one message, by direct get or through the API.

    Args:
        connection: A connection to the server.
        stream: A stream with direct access.
        request: The request in the server's format, such as `{"seq": 7}` or `{"last_by_subj": "a.b"}`.
        timeout: Seconds to wait for the answer.

    Raises:
        NoResponders: If the stream does not exist.
        NotPermitted: If this user may read it in neither way.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    refused = connection.direct_gets_refused
    if refused is None:
        try:
            subject = endpoints.subject(endpoints.direct_get(stream)).encode()
            return await connection.ask(subject, json.dumps(request).encode(), timeout=timeout, again=True)
        except NotPermitted as error:
            refused = error
        except NoResponders as error:
            raise _missing(stream) from error
    try:
        found = await read_at_leader(connection, stream, request, timeout=timeout)
    except NotPermitted:
        raise refused from None
    connection.direct_gets_refused = refused
    return found


async def read_at_leader(
    connection: Connection, stream: str, request: MessageRequest, *, timeout: float = DEFAULT_TIMEOUT
) -> Reply:
    """Read one message as `read_one` does, but through the API.

    The stream's leader answers there; another replica may lag behind.

    Raises:
        As in `read_one`.
    """
    message = await _ask_leader(connection, stream, request, timeout)
    if message is None:
        return _NO_MESSAGE
    # Below the headers that a stranger's message may contain, as in a direct get.
    told = b"Nats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n\r\n"
    lines = told % (message.subject, message.sequence, rfc3339(message.stored_at).encode())
    return Reply((message.header.removesuffix(b"\r\n") or b"NATS/1.0\r\n") + lines, message.data)


async def find_at_leader(connection: Connection, stream: str, request: MessageRequest) -> StoredMessage | None:
    """Return a message as the stream's leader has it, or None if there is no such message or stream.

    Another replica may lag behind the leader.

    Args:
        connection: A connection to the server.
        stream: Any stream.
        request: As for `find_stored`.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    try:
        return await _ask_leader(connection, stream, request, DEFAULT_TIMEOUT)
    except NoResponders:
        return None


async def _ask_leader(
    connection: Connection, stream: str, request: MessageRequest, timeout: float
) -> StoredMessage | None:
    endpoint = endpoints.message_get(stream)
    subject, body = endpoints.subject(endpoint).encode(), json.dumps(request).encode()
    answer = read_answer((await connection.ask(subject, body, timeout=timeout, again=True)).data, endpoint)
    if isinstance(answer, Refusal):
        if answer.err_code == STREAM_NOT_FOUND:
            raise _missing(stream)
        if answer.err_code == MESSAGE_NOT_FOUND:
            return None
        raise api_error(answer, endpoint)
    try:
        message = answer["message"]
        header, data = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
        place = int(message["seq"]), message["subject"].encode(), parse_rfc3339(message["time"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidResponse(repr(answer).encode(), f"reading a message of {stream}") from error
    return StoredMessage(*place, header, data)


def _missing(stream: str) -> NoResponders:
    return NoResponders(f"the stream {stream} does not exist: run `jsjobs streams apply`")


async def find_stored(connection: Connection, stream: str, request: MessageRequest) -> StoredMessage | None:
    """Return the message that a direct get asks for, or None if there is none.

    Args:
        connection: A connection to the server.
        stream: A stream with direct access, as all of ours are.
        request: The request in the server's format, such as `{"seq": 7}` or `{"seq": 7, "next_by_subj": "a.>"}`.

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
    """Return the sequence of a message that was read, and when it was stored, from the headers that the server added.

    The result is None if those headers are missing: there is no such message, or somebody else answered.
    """
    sequence, stored_at = value_of(header, b"Nats-Sequence"), value_of(header, b"Nats-Time-Stamp")
    if sequence is None or stored_at is None:
        return None
    try:
        return int(sequence), parse_rfc3339(stored_at.decode())
    except ValueError:
        return None


async def read_batch(
    connection: Connection, stream: str, request: BatchRequest, take: Callable[[bytes, bytes], None]
) -> bytes:
    """Read many messages, with one direct get if this user may; return the header of the answer that ends them.

    Args:
        connection: A connection to the server.
        stream: As for `find_stored`.
        request: The request in the server's format, such as `{"seq": 7, "next_by_subj": "a.>", "batch": 100}`.
        take: Called with the headers and the body of each message.

    Raises:
        NoResponders: If the stream does not exist.
        JobError: `RunnerUnavailable`, if the server cannot be reached, or the connection breaks meanwhile.
    """
    wanted: MessageRequest = {"next_by_subj": request["next_by_subj"]}
    if "start_time" in request:
        wanted["start_time"] = request["start_time"]
    else:
        wanted["seq"] = request["seq"]
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
    return b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 1\r\n\r\n"  # perhaps: the next read tells


async def find_batch(connection: Connection, stream: str, request: BatchRequest) -> tuple[list[StoredMessage], bool]:
    """Return the messages that a request for many asks for, and whether it left out further ones that match.

    Raises:
        As in `read_batch`.
    """
    found: list[StoredMessage] = []

    def take(header: bytes, data: bytes) -> None:
        place, subject = place_of(header), value_of(header, b"Nats-Subject")
        if place is not None and subject is not None:
            found.append(StoredMessage(place[0], subject, place[1], header, data))

    end = await read_batch(connection, stream, request, take)
    return found, value_of(end, b"Nats-Num-Pending") not in {None, b"0"}


async def _read_directly(
    connection: Connection, stream: str, request: BatchRequest, take: Callable[[bytes, bytes], None]
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
        subject = endpoints.subject(endpoints.direct_get(stream)).encode()
        connection.post(subject, json.dumps(request).encode(), reply=inbox)
        async with asyncio.timeout(_ANSWER_WITHIN):
            ended = await end
    except TimeoutError as error:
        raise ConnectionLost("NATS did not answer in time") from error
    finally:
        connection.on_reconnect.remove(on_reconnect)
        await connection.stop_receiving(subscription, drain=False)
    if ended.startswith(b"NATS/1.0 503"):
        raise _missing(stream)
    return ended


async def stored(
    connection: Connection, stream: str, subject: str = ">", *, after: int = 0
) -> AsyncIterator[StoredMessage]:
    """Yield the messages of a stream in order, including those that arrive meanwhile.

    Args:
        connection: A connection to the server.
        stream: As for `find_stored`.
        subject: Only messages on subjects that match this one.
        after: Only messages after this sequence.

    Raises:
        JobError: As in `find_stored`.
    """
    while message := await find_stored(connection, stream, {"seq": after + 1, "next_by_subj": subject}):
        after = message.sequence
        yield message
