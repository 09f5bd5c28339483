"""Jobs that fired, or were replayed, and that no worker has begun: such an id does not say where its message is.

Most have an entry from their submit on. A firing of a periodic schedule has none before its start, nor has a delayed
job that another client published, or whose submitter died before it wrote one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import NoResponders, no_streams
from jsjobs.jetstream.firing import parse_firing_id
from jsjobs.jetstream.incoming import read_stored_job
from jsjobs.jetstream.stored import StoredMessage, place_of, read_batch
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import value_of
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Priority
from jsjobs.model.times import rfc3339

_BATCH = 500
_BATCH_BYTES = 4 * 2**20
_MOST = 5_000
"""Messages of a stream that are looked at for one question: some 20 ms a thousand on nats-server 2.15.1,"""
_MOST_BYTES = 16 * 2**20
"""and bytes, but for a last batch: some 4 ms a MiB beside that."""
_IDS = re.compile(rb"\r\njsjobs-(?:id|schedule):(.*?)(?=\r\n)", re.IGNORECASE | re.DOTALL)
"""Given ids, and the names of schedules, in a header block: a job's own names are read without regard to case."""
_SKEW = timedelta(seconds=5)
"""How far the clocks of servers may differ."""


async def fired_entries(connection: Connection, names: Names, job_ids: Collection[str]) -> dict[str, JobStatusResponse]:
    """What the entries of these jobs would say, of those that are found behind their schedules.

    One that the queue has names its message as the carrier of the id.

    Args:
        connection: To the server.
        names: The namespace.
        job_ids: Given ids.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the streams do not exist.
    """
    search = _Search(names, job_ids)
    try:
        # In the order in which a message goes from one to the other: a router clears the first later than that.
        await search.look(connection, names.schedule_stream, f"{names.namespace}.due.>")
        for priority in Priority:
            await search.look(connection, names.stream(priority), ">")
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
        """When the first of them can have fired, where their ids tell."""
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
            begin: dict[str, Any] = {"seq": after + 1} if after or not self._since else _from(self._since)
            request = {**begin, "next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
            ended = await read_batch(connection, stream, request, take)
            if value_of(ended, b"Nats-Num-Pending") in {None, b"0"}:
                break

    def _take(self, message: StoredMessage) -> None:
        try:
            job = read_stored_job(self._names, message)
        except JobError:
            return  # a stranger's, on a subject that is none of a queue
        if job.job_id in self._job_ids:
            is_queued = not message.subject.startswith(f"{self._names.namespace}.due.".encode())
            entry = job.entry()
            self.found[job.job_id] = entry if is_queued else entry.model_copy(update={"carrier": None})


def _from(since: datetime) -> dict[str, Any]:
    return {"start_time": rfc3339(since)}
