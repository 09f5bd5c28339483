"""Publish jobs and read the server's answers: one message each, or an atomic batch, stored as a whole or not at all.

An acknowledgement or a refusal is translated into what it means for the publisher of the job. Where nobody takes a
publish, `comes_back` tells a stream without a leader from one that does not exist:
docs/server-quirks.md#a-stream-without-a-leader-looks-like-a-missing-one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from jsjobs.jetstream.api.errors import (
    OVER_MAX_MSG_SIZE,
    STORE_FAILED,
    InvalidResponse,
    LimitReached,
    Refusal,
)
from jsjobs.jetstream.api.requests import read_answer
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, Unanswered
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.protocol.headers import header_block
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token

ASK_AGAIN = 0.05
IN_PROCESS = 10158
"""The server's code while another publish of the same message id is on its way to the replicas: its outcome will be
this one's, in a moment."""
TOO_MANY_BATCHES = 10210
"""The server's code when the stream, or its server, has as many open atomic batches as it takes. Nothing of this one
was stored."""
MAX_BATCH = 1000
"""Maximum number of messages in one atomic batch. It is the server's own limit, like that of open batches:
docs/server-quirks.md#open-batches-are-limited-and-only-the-first-message-is-told."""
_INCOMPLETE = 10176
_TRY_AGAIN = 0.1
"""Seconds before the next try while the stream has as many open batches as it takes."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One job as it is published."""

    subject: bytes
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


async def comes_back(connection: Connection, stream: str, deadline: float) -> bool:
    """Return whether another try is worthwhile now, after nobody took a publish.

    Args:
        connection: A connection to the server.
        stream: The stream that was to take it.
        deadline: When to stop trying, on the monotonic clock.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    with suppress(JobError):  # nobody may answer this either, and a publisher need not have the right to ask
        if await find_stream(connection, stream, timeout=min(left, 1.0)) is None:
            return False
    await asyncio.sleep(ASK_AGAIN)
    return True


class PubAck(NamedTuple):
    """The server's acknowledgement of a publish."""

    stream: str
    sequence: int
    duplicate: bool
    """Whether it was already stored, under the same message id."""


def answer_of(reply: Reply) -> PubAck | Refusal:
    """Return the acknowledgement or the refusal in an answer.

    Raises:
        JobError: `RunnerUnavailable`, if somebody else answered.
    """
    answer = read_answer(reply.data, "publishing")
    if isinstance(answer, Refusal):
        return answer
    sequence = answer.get("seq")
    if type(sequence) is not int:
        raise InvalidResponse(reply.data, "publishing")
    return PubAck(str(answer.get("stream", "")), sequence, bool(answer.get("duplicate")))


def unknown(error: ConnectionLost, advice: str) -> JobError:
    """Return the error to raise when an answer was lost."""
    if isinstance(error, Unanswered):
        advice += "; if this continues, the disk of nats-server may be full"
    return JobError.from_runner_unavailable(f"{error.message}: the job may or may not be queued; {advice}", cause=error)


NOTHING_QUEUED = "nothing was queued"
NOTHING_MORE_QUEUED = "nothing more was queued"
"""The outcome for a refused part of a list when other parts are queued."""


def refusal(error: Refusal, outcome: str = NOTHING_QUEUED) -> JobError:
    """Return the error to raise when the server refused a job.

    Args:
        error: The server's answer.
        outcome: What was queued, in words.
    """
    code, text = error.err_code, error.description
    if code == IN_PROCESS:
        return JobError.from_runner_unavailable(
            "another submit with the same dedupe_key is still undecided, as without a majority of replicas: "
            "submit it again later, it will not be queued twice"
        )
    if code == STORE_FAILED and not error.is_full_disk:
        return JobError.from_runner_unavailable(f"the mailbox is full ({text}): {outcome}, try again later")
    if error.limit is not None:
        return LimitReached(error, outcome)
    if code == TOO_MANY_BATCHES:
        return JobError.from_runner_unavailable(
            f"busy: too many batches are being submitted to this queue ({text}, code {code}): {outcome}, "
            "try again in a few seconds"
        )
    if code == OVER_MAX_MSG_SIZE:
        return JobError.from_validation(
            f"the job is too large for its queue, which takes 896 KiB with its headers unless the stream was changed "
            f"({text}): {outcome}"
        )
    if error.code == 503:  # noqa: PLR2004 - as in HTTP
        return JobError.from_runner_unavailable(f"the server refused it for now: {text} (code {code})")
    return JobError.from_validation(f"the server refused it: {text} (code {code})")


async def send_batch(
    connection: Connection,
    messages: Sequence[Outgoing],
    *,
    most_bytes: int,
    timeout: float,
    outcome: str = NOTHING_QUEUED,
) -> PubAck | Refusal:
    """Send up to 1,000 messages to one stream as one batch; return the server's acknowledgement or refusal.

    While the stream has as many open batches as it takes, the batch is sent again until `timeout` has passed.

    Args:
        connection: A connection to the server.
        messages: The messages, in order.
        most_bytes: Limit for header and body of each message: the stream's `max_msg_size`.
        timeout: Seconds to wait for the connection, and for the answer.
        outcome: What was queued if a message is too large, in words.

    Raises:
        ConnectionLost: If it is not known whether the batch was stored.
        NoResponders: If the stream does not exist.
        JobError: `Validation`, if a message is too large; `RunnerUnavailable`: nothing was sent.
    """
    blocks = _blocks(messages, most_bytes, outcome)
    deadline = time.monotonic() + timeout
    while True:
        answer = await _send_once(connection, messages, blocks, timeout)
        code = answer.err_code if isinstance(answer, Refusal) else None
        if code == _INCOMPLETE:
            raise ConnectionLost("a part of the batch was lost")
        wait = random.uniform(0.5, 1.5) * _TRY_AGAIN  # noqa: S311 - spreads a herd
        if code != TOO_MANY_BATCHES or time.monotonic() + wait > deadline:
            return answer
        await asyncio.sleep(wait)


def _blocks(messages: Sequence[Outgoing], most_bytes: int, outcome: str) -> list[bytes]:
    batch, blocks = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % random_token().encode(), []
    for number, message in enumerate(messages, 1):
        commit = b"Nats-Batch-Commit: 1\r\n" if number == len(messages) else b""
        blocks.append(header_block(message.headers, b"%b%d\r\n%b" % (batch, number, commit)))
        if (size := len(blocks[-1]) + len(message.data)) > most_bytes:
            # The server would only say that part of the batch is missing.
            raise JobError.from_validation(
                f"job {number} of the list is too large for its queue ({size} bytes with its headers, "
                f"the limit is {most_bytes}): {outcome}"
            )
    return blocks


async def _send_once(
    connection: Connection, messages: Sequence[Outgoing], blocks: Sequence[bytes], timeout: float
) -> PubAck | Refusal:
    await connection.when_up(timeout)
    begun: asyncio.Future[Reply] | None = None
    try:
        for number, (message, block) in enumerate(zip(messages[:-1], blocks, strict=False)):
            if number == 0:
                # Only in answer to the first message does the server say that it opens no further batch.
                begun = connection.ask_soon(message.subject, message.data, header=block, timeout=timeout)
            else:
                connection.post(message.subject, message.data, header=block)
            if connection.is_crowded:
                await connection.room()
        last = messages[-1]
        answer = answer_of(await connection.ask(last.subject, last.data, header=blocks[-1], timeout=timeout))
        if begun is not None and isinstance(answer, Refusal) and answer.err_code == _INCOMPLETE:
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
