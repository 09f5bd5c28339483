"""Find messages in the parallel lanes that no worker will end, and end them.

There are three kinds. Some lie on a subject that no partition takes, as in a queue (`maintenance/stranded.py`). Some
belong to a job that has ended: its acknowledgement was lost, and a server whose disk was full forgets one that it took
(docs/server-quirks.md#a-full-disk). And some count as acknowledged, though nobody ended their job.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.lane_jobs import DeliveredJob, delivered_jobs
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.partitions import Partitions, live_partitions
from jsjobs.maintenance.stranded import NOT_FOUND_AGAIN, NOT_TAKEN
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue

MOST_READ = 2_000
"""Messages of a lane that one sweep reads, at most; the next one continues behind them."""
_MOST_KEPT = 1_000
"""Messages of a lane that are remembered until a later sweep ends them, at most."""


class _Doomed(NamedTuple):
    """A message that is ended by a sweep that finds it so for the second time."""

    first_seen: float
    why: JobError | None
    """Why its job is dead, if it has not ended."""


class LaneSweep:
    """Sweep the parallel lane of one priority."""

    def __init__(self, connection: Connection, names: Names, recorder: DeadLetterRecorder, priority: Priority) -> None:
        self._connection = connection
        self._names = names
        self._recorder = recorder
        self._priority = priority
        self._queue = Queue(priority, Lane.PARALLEL)
        self._read_to = 0
        """How far the last sweep got; 0 if it reached the end."""
        self._doomed: dict[int, _Doomed] = {}

    async def once(self) -> None:
        """Read on from where the last sweep ended; end what it, or one before it, found `ack_wait` ago.

        Raises:
            DatabaseError: If Postgres cannot take a dead letter now.
            JobError: If the server cannot be asked.
        """
        stream = self._names.queue(self._queue)
        lane = await find_stream(self._connection, stream)
        partitions = await live_partitions(self._connection, self._names, (self._priority,))
        if lane is None or not partitions:
            return
        await self._end(stream, max(info.config.ack_wait for info in partitions.values()) / 1e9)
        passed = [info.delivered.stream_seq for info in partitions.values() if info.num_pending]
        # What came since the lane was read is not judged; nor is what a partition with jobs has not passed.
        until = min([lane.state.last_seq, *passed])
        delivered = max(until, *(info.delivered.stream_seq for info in partitions.values()))
        after, self._read_to, now = self._read_to, 0, time.monotonic()
        read = 0
        async for each in delivered_jobs(
            self._connection, self._names, self._queue, after=after, until=delivered, most=MOST_READ
        ):
            read, sequence = read + 1, each.message.sequence
            if (doomed := self._judged(each, partitions, until, now)) is not None and len(self._doomed) < _MOST_KEPT:
                self._doomed.setdefault(sequence, doomed)
            if read >= MOST_READ:
                self._read_to = sequence

    def _judged(self, each: DeliveredJob, partitions: Partitions, until: int, now: float) -> _Doomed | None:
        """Return a message that no worker will end, as far as one look tells."""
        sequence, subject = each.message.sequence, each.message.subject
        partition = self._names.partition_of(subject, self._priority)
        if partition is None or NOT_FOUND_AGAIN in subject:
            return _Doomed(now, NOT_TAKEN[Lane.PARALLEL]) if sequence <= until else None
        info = partitions.get(partition)
        if info is None or sequence > info.delivered.stream_seq:
            return None  # it waits, or its partition is about to be created again
        if has_ended(each) or sequence <= info.ack_floor.stream_seq:
            return _Doomed(now, None)
        return None

    async def _end(self, stream: str, ack_wait: float) -> None:
        now = time.monotonic()
        due = [sequence for sequence, doomed in self._doomed.items() if now - doomed.first_seen >= ack_wait]
        for sequence in due:
            # It is read and judged by its entry once more; one that is gone is left alone.
            await self._recorder.dead_letter_if_possible(stream, sequence, ">", self._doomed[sequence].why)
            del self._doomed[sequence]


def has_ended(each: DeliveredJob) -> bool:
    """Return whether a message's job has ended, or another message carries its id."""
    found = each.found
    if found is None or found.is_deleted:
        return False
    if found.problem is not None:
        return found.is_over
    entry = None if found.entry is None else each.job.own(found.entry)
    return entry is None or entry.status.is_terminal
