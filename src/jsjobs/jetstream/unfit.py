"""Messages that fired and that their queue can never take: strangers' alone, and each would hold up all behind it.

When a stream sources a message it adds a header that names the message's place and subject. The server tries one that
does not fit with it for ever, before any other of the priority (nats-server 2.15.1, measured).
"""

from __future__ import annotations

from typing import Any

from jsjobs.jetstream.acknowledgements import answer_of, refusal
from jsjobs.jetstream.api import call, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.schedule import FIRED_TTL
from jsjobs.jetstream.stored import StoredMessage, find_at_leader
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import header_block
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.jetstream")

_MAX_HEADERS = 65_535
"""Of one message, in bytes: the server's own limit."""
_ADDED = 512
"""Bytes that sourcing adds beside the subject, at most."""
_SHOWN = 200


async def set_unfit_aside(connection: Connection, names: Names, priority: Priority) -> int:
    """Move what a queue can never take, as long as it is next, out of the way; how many there were.

    The body is kept for a year on `<namespace>.due.unfit`, which no queue takes from.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream, moved = names.schedule_stream, 0
    queue = await find(connection, f"STREAM.INFO.{names.stream(priority)}")
    while queue is not None:
        source = await find(connection, f"CONSUMER.INFO.{stream}.{names.source(priority)}")
        if source is None:
            break
        request = {"seq": source["ack_floor"]["stream_seq"] + 1, "next_by_subj": source["config"]["filter_subject"]}
        following = await _next_of(connection, stream, request, queue["config"]["max_msg_size"])
        if following is None:
            break
        subject = following.subject.decode()[:_SHOWN]
        kept = header_block({"Jsjobs-Unfit": subject, "Nats-TTL": FIRED_TTL})
        answer = answer_of(await connection.ask(f"{names.namespace}.due.unfit".encode(), following.data, header=kept))
        if "error" in answer:
            raise refusal(answer["error"])  # it stays where it is, and in the way
        await call(connection, f"STREAM.MSG.DELETE.{stream}", {"seq": following.sequence, "no_erase": True})
        logger.warning(
            "message %d of %s on %s is too large for its queue: set aside", following.sequence, stream, subject
        )
        moved += 1
    return moved


async def _next_of(connection: Connection, stream: str, request: dict[str, Any], most: int) -> StoredMessage | None:
    """The first message in sourcing's way that cannot be taken; none, where the first hundred can."""
    for _ in range(100):
        message = await find_at_leader(connection, stream, request)
        if message is None:
            return None
        headers = len(message.header) + len(message.subject) + _ADDED
        size = headers + len(message.data)
        if headers > _MAX_HEADERS or 0 < most < size:  # -1 is no limit
            return message
        request = {**request, "seq": message.sequence + 1}
    return None
