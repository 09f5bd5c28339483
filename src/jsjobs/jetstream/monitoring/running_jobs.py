"""Find the jobs that were delivered and have not ended.

A shard has one at most, the one delivered last. A partition may have very many, of which the first ones are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from jsjobs.jetstream.api.messages import StoredMessage, find_batch
from jsjobs.jetstream.api.types import BatchRequest, ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import IncomingJob, fetch_job, read_stored_job
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.job_ids import plain_id
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.model.lanes import Queue
from jsjobs.model.queues import RunningJob

_MAX_BYTES = 4 << 20
"""Bytes of messages that are read of one partition, at most; the last one may exceed it."""


@dataclass(slots=True)
class PartitionJobs:
    """The jobs that a partition has in flight."""

    running: list[RunningJob] = field(default_factory=list)
    """Jobs whose entry says that an attempt has begun."""
    retrying: list[RunningJob] = field(default_factory=list)
    """Jobs that wait for their next attempt, or whose handler snoozed."""
    given_back: list[datetime] = field(default_factory=list)
    """When the jobs were stored that no worker has, or has begun: one without a free slot gave them back."""
    unread: int = 0
    """Further jobs in flight, of which nothing is known."""


class InFlight:
    """Read what is known of the jobs in flight; change nothing."""

    def __init__(self, connection: Connection, names: Names, state: StateStore) -> None:
        self._connection = connection
        self._names = names
        self._state = state

    async def of_shards(self, busy: Mapping[Shard, ConsumerInfo], limit: int) -> dict[Shard, RunningJob]:
        """Return the jobs that shards have in flight, those delivered longest ago first; leave out ended ones.

        Args:
            busy: Shards that have a job in flight, with their consumers' information.
            limit: How many jobs to read, at most.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        longest = sorted(busy.items(), key=lambda each: each[1].last_active)[:limit]
        found = await asyncio.gather(*(self._of_shard(shard, info) for shard, info in longest))
        return {shard: job for (shard, _), job in zip(longest, found, strict=True) if job is not None}

    async def of_partitions(self, busy: Mapping[Partition, ConsumerInfo], limit: int) -> dict[Partition, PartitionJobs]:
        """Return the jobs that partitions have in flight, those submitted first.

        It takes a request for each partition, and one for each job that is read.

        Args:
            busy: Partitions that have jobs in flight, with their consumers' information.
            limit: How many jobs to read, at most. The partitions share them fairly.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        shares = _shares({partition: info.num_ack_pending for partition, info in busy.items()}, limit)
        found = await asyncio.gather(*(self._of_partition(one, busy[one], most) for one, most in shares.items()))
        return dict(zip(shares, found, strict=True))

    # -- shards

    async def _of_shard(self, shard: Shard, info: ConsumerInfo) -> RunningJob | None:
        # A shard lets one job through at a time, so the last one delivered is the one in flight.
        sequence = info.delivered.stream_seq
        try:
            entry = await self._entry(shard.queue, sequence)
        except JobError as error:
            if error.is_transient:
                raise
            # A stranger's message cannot be read; that its shard is busy is still worth a line.
            entry = JobStatusResponse(job_id=plain_id(shard.queue, sequence), status=Status.QUEUED)
        if entry is None or entry.status.is_terminal:
            return None
        return _running_job(shard, entry, info.last_active)

    async def _entry(self, queue: Queue, sequence: int) -> JobStatusResponse | None:
        """Return what is known of the job in a message; None if it has ended."""
        found = await self._state.read(plain_id(queue, sequence))
        if found is not None and not found.is_deleted:
            return found.entry
        job = await fetch_job(self._connection, self._names, queue, sequence)
        if job is None:
            return None
        return await self._entry_of(job) if job.has_given_id else job.entry()

    async def _entry_of(self, job: IncomingJob) -> JobStatusResponse | None:
        """Return the entry of a job, a new one if nobody has written it; None if the job has ended."""
        found = await self._state.read(job.job_id)
        if found is None or found.is_deleted:
            return job.entry()
        return None if found.entry is None else job.own(found.entry)

    # -- partitions

    async def _of_partition(self, partition: Partition, info: ConsumerInfo, most: int) -> PartitionJobs:
        jobs = PartitionJobs()
        messages, jobs.unread = await self._messages(partition, info, most)
        entries = await asyncio.gather(*(self._entry_in(message) for message in messages))
        for message, entry in zip(messages, entries, strict=True):
            if entry is None or entry.status.is_terminal:
                continue
            if entry.status is Status.PROCESSING:
                jobs.running.append(_running_job(partition, entry, message.stored_at))
            elif _is_retrying(entry):
                jobs.retrying.append(_running_job(partition, entry, message.stored_at))
            else:
                jobs.given_back.append(message.stored_at)
        return jobs

    async def _messages(self, partition: Partition, info: ConsumerInfo, most: int) -> tuple[list[StoredMessage], int]:
        """Return the first messages of a partition that are in flight, and how many more there are."""
        if not most:
            return [], info.num_ack_pending
        request: BatchRequest = {
            "seq": info.ack_floor.stream_seq + 1,
            "next_by_subj": self._names.stored_in(partition),
            "batch": most,
            "max_bytes": _MAX_BYTES,
        }
        found, has_more = await find_batch(self._connection, self._names.queue(partition.queue), request)
        messages = [message for message in found if message.sequence <= info.delivered.stream_seq]
        if not has_more or len(messages) < len(found):
            return messages, 0  # none is left before those that wait
        return messages, max(0, info.num_ack_pending - len(messages))

    async def _entry_in(self, message: StoredMessage) -> JobStatusResponse | None:
        job = read_stored_job(self._names, message)
        try:
            return await self._entry_of(job)
        except JobError as error:
            if error.is_transient:
                raise
            return job.entry()  # a stranger wrote what cannot be read


def _is_retrying(entry: JobStatusResponse) -> bool:
    """Return whether a job waits for its retry or snoozes; one that its worker released waits for nothing."""
    if entry.status is not Status.QUEUED or entry.next_attempt_at is None:
        return False
    return entry.snoozed_until is not None or bool(entry.history and entry.history[-1].error)


def _running_job(place: Shard | Partition, entry: JobStatusResponse, otherwise: datetime) -> RunningJob:
    """Return a job as it is shown; `otherwise` says since when, if its entry does not."""
    return RunningJob(
        job_id=entry.job_id,
        priority=place.priority,
        lane=place.queue.lane,
        consumer=place.consumer,
        status=entry.status,
        type=entry.type,
        entity=entry.entity,
        tenant=entry.tenant,
        attempt=entry.attempts,
        max_attempts=entry.max_attempts,
        worker=entry.worker,
        since=entry.history[-1].timestamp if entry.history else otherwise,
        next_attempt_at=entry.next_attempt_at if _is_retrying(entry) else None,
        snoozed_until=entry.snoozed_until,
        begun_at=next((item.timestamp for item in entry.history if item.status is Status.PROCESSING), None),
    )


def _shares(wanted: Mapping[Partition, int], total: int) -> dict[Partition, int]:
    """Divide a number of reads fairly; a share that is not needed goes to those that want more."""
    shares: dict[Partition, int] = {}
    for number, (partition, most) in enumerate(sorted(wanted.items(), key=lambda each: each[1])):
        shares[partition] = min(most, total // (len(wanted) - number))
        total -= shares[partition]
    return shares
