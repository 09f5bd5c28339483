"""Reading one stored message: by direct get, and through the JetStream API for users that may not ask directly.

A direct get costs the server least, but one of them may ask for a whole stream, and the server then holds all of it in
memory for whoever does not read it: no limit of its configuration bounds that (measured on nats-server 2.15.1). So
viewers have the right to `STREAM.MSG.GET` in its place, which is answered with one message.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import MESSAGE_NOT_FOUND, STREAM_NOT_FOUND, Garbled, api_error, read_answer
from jsjobs.jetstream.connection import DEFAULT_TIMEOUT, Connection
from jsjobs.jetstream.errors import NoResponders
from jsjobs.jetstream.refusals import NotPermitted

_NO_MESSAGE = Reply(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")


async def read_one(
    connection: Connection, stream: str, request: dict[str, Any], *, timeout: float = DEFAULT_TIMEOUT
) -> Reply:
    """The answer to a direct get of one message, whichever way it may be had.

    Args:
        connection: To the server.
        stream: A stream with direct access.
        request: In the server's own words, such as `{"seq": 7}` or `{"last_by_subj": "a.b"}`.
        timeout: Seconds.

    Raises:
        NoResponders: If the stream does not exist.
        NotPermitted: If this user may read it in neither way.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    refused = connection.direct_gets_refused
    if refused is None:
        try:
            subject = f"$JS.API.DIRECT.GET.{stream}".encode()
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
    connection: Connection, stream: str, request: dict[str, Any], *, timeout: float = DEFAULT_TIMEOUT
) -> Reply:
    """As `read_one`, but through the API, which the stream's leader answers: another replica may lag behind."""
    endpoint = f"STREAM.MSG.GET.{stream}"
    subject, body = f"$JS.API.{endpoint}".encode(), json.dumps(request).encode()
    answer = read_answer((await connection.ask(subject, body, timeout=timeout, again=True)).data, endpoint)
    if "error" in answer:
        if answer["error"].get("err_code") == STREAM_NOT_FOUND:
            raise _missing(stream)
        if answer["error"].get("err_code") == MESSAGE_NOT_FOUND:
            return _NO_MESSAGE
        raise api_error(answer["error"], endpoint)
    try:
        message = answer["message"]
        header, data = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
        told = {"Subject": message["subject"], "Sequence": message["seq"], "Time-Stamp": message["time"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbled(repr(answer).encode(), f"reading a message of {stream}") from error
    # Below those that a stranger's message brought along, as a direct get has them.
    lines = "".join(f"Nats-{name}: {value}\r\n" for name, value in told.items()).encode()
    return Reply((header.removesuffix(b"\r\n") or b"NATS/1.0\r\n") + lines + b"\r\n", data)


def _missing(stream: str) -> NoResponders:
    return NoResponders(f"the stream {stream} does not exist: run `jsjobs streams apply`")
