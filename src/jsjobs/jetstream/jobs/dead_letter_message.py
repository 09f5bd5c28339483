"""Dead-letter messages, each a dead job on its way to Postgres.

The body is the job's header block and body, byte for byte, one after the other. The message's own header
`Jsjobs-Headers-Size` says where the block ends. So a block that no client can parse travels unharmed, and a header such
as `Nats-Expected-Last-Sequence` has no effect on the dead-letter message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from jsjobs.jetstream.api.errors import LimitReached, Refusal, api_error
from jsjobs.jetstream.api.publish import answer_of
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, Unanswered, Unstored
from jsjobs.jetstream.jobs.blocked_writes import BlockedWrite
from jsjobs.jetstream.protocol.headers import header_block, value_of
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.trace import TRACEPARENT, read_traceparent
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.letters")

_SIZE = "Jsjobs-Headers-Size"
_REASON = "Jsjobs-Reason"
_TRY_AGAIN = 0.1
_MANY_DIGITS = 20  # more digits than any size has, and fewer than Python refuses to read


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead job's message as the dead-letter stream stores it."""

    job_id: str
    reason: Reason
    header: bytes
    """The job's raw header block; empty if it had none."""
    body: bytes
    traceparent: str | None = None
    """That of the job's last attempt, if the message says it."""


async def send_letter(
    connection: Connection,
    names: Names,
    entry: JobStatusResponse,
    header: bytes,
    body: bytes,
    traceparent: str | None = None,
    *,
    blocked: BlockedWrite,
    within: float | None = None,
) -> None:
    """Publish a dead job's letter and wait for its acknowledgement; while it cannot be stored, try again.

    It is safe to repeat: the table takes one row per job. The message has no message id. Whoever may write letters
    could otherwise guess it from the job and be first: the server would then drop this letter, and acknowledge it.

    Args:
        connection: A connection to the server.
        names: The namespace.
        entry: The dead job's entry.
        header: The job's own header block.
        body: The job's own body.
        traceparent: The one of its last attempt.
        blocked: Reports the letter as waiting while there is no room for it.
        within: Seconds to keep trying; None: for ever.

    Raises:
        LimitReached: If there is no room for it, and `within` was given.
        ConnectionLost: If it was not confirmed in that time; it may have been stored.
        JobError: If the server refuses it.
    """
    pairs = {
        _REASON: entry.error_reason or Reason.PROCESSING,
        _SIZE: str(len(header)),
        **({} if traceparent is None else {TRACEPARENT: traceparent}),
    }
    subject, block, data = names.dead(entry.job_id), header_block(pairs), header + body
    failure: JobError | None = None
    try:
        async with asyncio.timeout(within):
            while (failure := await _failure(connection, subject, block, data, entry.job_id)) is not None:
                match failure:
                    case LimitReached() if within is not None:
                        raise failure
                    case LimitReached():
                        await blocked.no_room(failure.limit)
                    case Unanswered():
                        await blocked.no_answer(Unstored(names.dead_stream).message)
                    case ConnectionLost():
                        await asyncio.sleep(_TRY_AGAIN)
                    case _:
                        logger.warning("the dead-letter message of %s waits: %s", entry.job_id, failure)
                        await asyncio.sleep(_TRY_AGAIN)
    except TimeoutError as error:
        why = "NATS did not answer" if failure is None else failure.message
        raise ConnectionLost(
            f"the dead-letter message of {entry.job_id} could not be stored within {within:g} s: {why}"
        ) from error


async def _failure(connection: Connection, subject: bytes, block: bytes, data: bytes, job_id: str) -> JobError | None:
    """Publish a letter once; return the reason to try again, or None once it is stored.

    Raises:
        JobError: If trying again would not help.
    """
    try:
        answer = answer_of(await connection.ask(subject, data, header=block))
        if isinstance(answer, Refusal):
            raise api_error(answer, f"the dead-letter message of {job_id}")
    except ConnectionClosed:
        raise
    except JobError as error:
        if not error.is_transient:
            raise
        return error
    return None


def read_letter(names: Names, subject: bytes, header: bytes, data: bytes) -> Letter:
    """Return the letter in a message on `jobs.dead.>`.

    A stranger's message there is read as far as possible, and kept.
    """
    size, reason = value_of(header, _SIZE.encode()), value_of(header, _REASON.encode())
    is_number = size is not None and size.isdigit() and len(size) < _MANY_DIGITS
    split = int(size) if size is not None and is_number and int(size) <= len(data) else 0
    try:
        known = Reason((reason or b"").decode("ascii", "replace"))
    except ValueError:
        known = Reason.PROCESSING
    job_id = subject.removeprefix(names.dead("")).decode("utf-8", "backslashreplace")
    trace = value_of(header, TRACEPARENT.encode())
    traceparent = None if trace is None else read_traceparent([trace.decode("ascii", "replace")])
    return Letter(job_id, known, data[:split], data[split:], traceparent)
