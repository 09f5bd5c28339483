"""Atomic batches: several messages that a stream stores all together, or none of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from jsjobs.jetstream.acknowledgements import TOO_MANY_BATCHES, answer_of
from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.wire import header_block
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token

MAX_BATCH = 1000
"""Messages in one atomic batch, at most: the server's own limit (nats-server 2.15)."""
_INCOMPLETE = 10176
_TRY_AGAIN = 0.1
"""Seconds before the next try while the stream has as many open batches as it takes."""


async def send_batch(
    connection: Connection, messages: Sequence[Outgoing], *, most_bytes: int, timeout: float
) -> dict[str, Any]:
    """Send up to 1,000 messages to one stream as one batch; the server's acknowledgement or refusal.

    While the stream has as many open batches as it takes, the batch is sent again until `timeout` has passed.

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
    blocks = _blocks(messages, most_bytes)
    deadline = time.monotonic() + timeout
    while True:
        answer = await _send_once(connection, messages, blocks, timeout)
        code = (answer.get("error") or {}).get("err_code")
        if code == _INCOMPLETE:
            raise ConnectionLost("a part of the batch was lost on its way")
        wait = random.uniform(0.5, 1.5) * _TRY_AGAIN  # noqa: S311 - spreads a herd
        if code != TOO_MANY_BATCHES or time.monotonic() + wait > deadline:
            return answer
        await asyncio.sleep(wait)


def _blocks(messages: Sequence[Outgoing], most_bytes: int) -> list[bytes]:
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
    return blocks


async def _send_once(
    connection: Connection, messages: Sequence[Outgoing], blocks: Sequence[bytes], timeout: float
) -> dict[str, Any]:
    await connection.when_up(timeout)
    begun: asyncio.Future[Reply] | None = None
    try:
        for number, (message, block) in enumerate(zip(messages[:-1], blocks, strict=False)):
            if number == 0:
                # The server says to the first message alone that it opens no further batch.
                begun = connection.ask_soon(message.subject, message.data, header=block, timeout=timeout)
            else:
                connection.post(message.subject, message.data, header=block)
            if connection.is_crowded:
                await connection.room()
        last = messages[-1]
        answer = answer_of(await connection.ask(last.subject, last.data, header=blocks[-1], timeout=timeout))
        if begun is not None and (answer.get("error") or {}).get("err_code") == _INCOMPLETE:
            first = await begun
            return answer_of(first) if first.data else answer
        return answer
    finally:
        if begun is not None:
            begun.add_done_callback(_retrieve)  # a connection that breaks fails it too
            begun.cancel()


def _retrieve(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled():
        future.exception()
