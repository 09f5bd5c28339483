"""Find jobs that fired, or were replayed, and that no worker has started: such an id does not say where its message is.

Most have an entry from their submit on. A firing of a periodic schedule has none before its start. Nor has a delayed
job that another client published, or whose publisher died before it wrote one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta

from jsjobs.jetstream.api.messages import StoredMessage, place_of, read_batch
from jsjobs.jetstream.api.types import BatchRequest, MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders, no_streams
from jsjobs.jetstream.jobs.message import read_stored_job
from jsjobs.jetstream.protocol.firing import parse_firing_id
from jsjobs.jetstream.protocol.headers import value_of
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.lanes import QUEUES
from jsjobs.model.times import rfc3339

_BATCH = 500
_BATCH_BYTES = 4 * 2**20
_MOST = 5_000
"""Limit for the messages of a stream that are read for one question; a thousand take about 20 ms."""
_MOST_BYTES = 16 * 2**20
"""Limit for their bytes, not counting a last batch; a MiB takes about 4 ms more."""
_IDS = re.compile(rb"\r\njsjobs-(?:id|schedule):(.*?)(?=\r\n)", re.IGNORECASE | re.DOTALL)
"""Matches given ids and names of schedules in a header block. A job's own header names are read without regard to
case."""
_SKEW = timedelta(seconds=5)
"""The most by which the clocks of servers may differ."""


async def fired_entries(connection: Connection, names: Names, job_ids: Collection[str]) -> dict[str, JobStatusResponse]:
    """Return the entries that these jobs would have, for those that are found after their schedules fired.

    If a job is in its queue, its entry names the message as the carrier of the id.

    Args:
        connection: A connection to the server.
        names: The namespace.
        job_ids: The given ids to look for.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the streams do not exist.
    """
    search = _Search(names, job_ids)
    try:
        # In the order in which a message moves: a router clears the schedule stream only after the queue has it.
        await search.look(connection, names.schedule_stream, f"{names.namespace}.due.>")
        for queue in QUEUES:
            await search.look(connection, names.queue(queue), ">")
    except NoResponders as error:
        raise JobError.from_runner_unavailable(no_streams(names.namespace)) from error
    return search.found


class _Search:
    def __init__(self, names: Names, job_ids: Collection[str]) -> None:
        self._names = names
        self._job_ids = frozenset(job_ids)
        firings = [parse_firing_id(job_id) for job_id in job_ids]
        self._marks = {(f[0] if f else job_id).encode() for f, job_id in zip(firings, job_ids, strict=True)}
        self._since = min((f[1] - _SKEW for f in firings if f), default=None) if all(firings) else None
        """The earliest time at which the first of them can have fired, if their ids tell it."""
        self.found: dict[str, JobStatusResponse] = {}

    async def look(self, connection: Connection, stream: str, subject: str) -> None:
        after = looked_at = size = 0

        def take(header: bytes, data: bytes) -> None:
            nonlocal after, looked_at, size
            looked_at, size = looked_at + 1, size + len(header) + len(data)
            place, stored_under = place_of(header), value_of(header, b"Nats-Subject")
            if place is not None and stored_under is not None:
                after = place[0]
                if any(value.strip() in self._marks for value in _IDS.findall(header)):
                    self._take(StoredMessage(after, stored_under, place[1], header, data))

        while looked_at < _MOST and size < _MOST_BYTES:
            begin: MessageRequest = {"seq": after + 1} if after or not self._since else _from(self._since)
            request: BatchRequest = {**begin, "next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
            ended = await read_batch(connection, stream, request, take)
            if value_of(ended, b"Nats-Num-Pending") in {None, b"0"}:
                break

    def _take(self, message: StoredMessage) -> None:
        try:
            job = read_stored_job(self._names, message)
        except JobError:
            return  # a stranger's, on a subject that is not a queue's
        if job.job_id in self._job_ids:
            is_queued = not message.subject.startswith(f"{self._names.namespace}.due.".encode())
            entry = job.entry()
            self.found[job.job_id] = entry if is_queued else entry.model_copy(update={"carrier": None})


def _from(since: datetime) -> MessageRequest:
    return {"start_time": rfc3339(since)}
