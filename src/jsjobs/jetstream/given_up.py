"""Messages that the server gave up: delivered as often as they may be, and still in their queue."""

from __future__ import annotations

from typing import Any

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.stored import find_at_leader


async def given_up(connection: Connection, stream: str, info: dict[str, Any], *, most: int | None = None) -> list[int]:
    """Where in its queue they stand, of one shard; one that ended a moment ago may still be among them.

    Args:
        connection: To the server.
        stream: The queue's.
        info: What the server tells of the shard's consumer.
        most: How many to find, at most; None: all.

    Raises:
        JobError: If the server cannot be asked.
    """
    found: list[int] = []
    sequence = 1
    while most is None or len(found) < most:
        request = {"seq": sequence, "next_by_subj": info["config"]["filter_subject"]}
        message = await find_at_leader(connection, stream, request)
        if message is None or message.sequence > info["delivered"]["stream_seq"]:
            break
        if is_given_up(info, message.sequence):
            found.append(message.sequence)
        sequence = message.sequence + 1
    return found


def is_given_up(info: dict[str, Any], sequence: int) -> bool:
    """Whether a message that is still stored was delivered and is not in flight.

    A shard has one message in flight at most, and that is the last one delivered.
    """
    last: int = info["delivered"]["stream_seq"]
    in_flight = info["num_ack_pending"] > 0 and sequence == last
    return sequence <= last and not in_flight
