"""Atomic batches: several messages that a stream stores all together, or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsjobs.jetstream.acknowledgements import answer_of
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.wire import header_block
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token

MAX_BATCH = 1000
"""Messages in one atomic batch, at most: the server's own limit (nats-server 2.15)."""
_INCOMPLETE = 10176


async def send_batch(
    connection: Connection, messages: Sequence[Outgoing], *, most_bytes: int, timeout: float
) -> dict[str, Any]:
    """Send up to 1,000 messages to one stream as one batch; the server's acknowledgement or refusal.

    Args:
        connection: To the server.
        messages: In their order.
        most_bytes: Of each, header and body: the stream's `max_msg_size`.
        timeout: Seconds to wait for the connection, and for the answer.

    Raises:
        ConnectionLost: If it is not known whether the batch was stored.
        NoResponders: If the stream does not exist.
        JobError: `Validation`, if a message is too large; `RunnerUnavailable`: nothing was sent.
    """
    batch, blocks = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % random_token().encode(), []
    for number, message in enumerate(messages, 1):
        commit = b"Nats-Batch-Commit: 1\r\n" if number == len(messages) else b""
        blocks.append(header_block(message.headers, b"%b%d\r\n%b" % (batch, number, commit)))
        if (size := len(blocks[-1]) + len(message.data)) > most_bytes:
            # The server would only say that something of the batch is missing.
            raise JobError.from_validation(
                f"job {number} of the list is too large for its queue ({size} bytes with its headers, "
                f"{most_bytes} are taken): nothing was queued"
            )
    await connection.when_up(timeout)
    for message, block in zip(messages[:-1], blocks, strict=False):
        connection.post(message.subject, message.data, header=block)
        if connection.is_crowded:
            await connection.room()
    last = messages[-1]
    answer = answer_of(await connection.ask(last.subject, last.data, header=blocks[-1], timeout=timeout))
    if (answer.get("error") or {}).get("err_code") == _INCOMPLETE:
        raise ConnectionLost("a part of the batch was lost on its way")
    return answer
