"""Read the jobs that a parallel lane has delivered and that have not left it, in bounded batches.

Many are under way at once, and the server does not tell which: those that run, those that wait for their next attempt,
and those that have ended and whose message is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from jsjobs.jetstream.api.messages import StoredMessage, find_batch
from jsjobs.jetstream.api.types import BatchRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import IncomingJob, read_stored_job
from jsjobs.jetstream.jobs.state_store import Found, StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import Queue

_AT_ONCE = 200
"""Messages of one batch, at most."""
_BYTES_AT_ONCE = 4 * 2**20
"""Bytes of one batch, at most; a message that exceeds them alone is read by itself."""
_MOST_BYTES = 32 * 2**20
"""Bytes that one reading takes, at most, not counting its last batch."""


class DeliveredJob(NamedTuple):
    """A job whose message is still stored in its lane."""

    message: StoredMessage
    job: IncomingJob
    found: Found | None
    """Its entry, as some server of the cluster has it; None if it has none."""


async def delivered_jobs(
    connection: Connection, names: Names, queue: Queue, *, after: int = 0, until: int, most: int
) -> AsyncIterator[DeliveredJob]:
    """Yield the jobs of a lane in the order of their messages, each with its entry.

    Messages that cannot be read as jobs are left out.

    Args:
        connection: A connection to the server.
        names: The namespace.
        queue: The lane.
        after: Only messages after this sequence.
        until: The last sequence to read, such as that of the last delivered message.
        most: How many messages to read, at most.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached, or the lane or the bucket does not exist.
    """
    state, left, size = StateStore(connection, names), most, 0
    while left > 0 and after < until and size < _MOST_BYTES:
        messages = await _read(connection, names.queue(queue), after, min(left, _AT_ONCE))
        if not messages:
            return
        left, after = left - len(messages), messages[-1].sequence
        size += sum(len(each.header) + len(each.data) for each in messages)
        jobs = [(each, job) for each in messages if each.sequence <= until and (job := _job(names, each)) is not None]
        entries = await asyncio.gather(*(state.read(job.job_id) for _, job in jobs))
        for (message, job), found in zip(jobs, entries, strict=True):
            yield DeliveredJob(message, job, found)


async def _read(connection: Connection, stream: str, after: int, count: int) -> list[StoredMessage]:
    request: BatchRequest = {
        "seq": after + 1,
        "next_by_subj": ">",
        "batch": count,
        "max_bytes": _BYTES_AT_ONCE,
    }
    return (await find_batch(connection, stream, request))[0]


def _job(names: Names, message: StoredMessage) -> IncomingJob | None:
    try:
        return read_stored_job(names, message)
    except JobError:
        return None
