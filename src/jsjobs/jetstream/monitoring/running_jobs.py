"""Find the jobs that workers have, by what the server delivered last to each shard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import fetch_job
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.job_ids import plain_id
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Priority, Status
from jsjobs.model.lanes import Queue


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that was delivered and is not settled."""

    job_id: str
    priority: Priority
    shard: str
    """The consumer's name."""
    status: Status
    """`processing`, or `queued` if it waits for its next attempt, or its worker has not written its entry yet."""
    type: str
    entity: str | None
    tenant: str | None
    attempt: int
    """The number of attempts begun."""
    max_attempts: int
    worker: str | None
    """The worker that runs it, or ran it last."""
    since: datetime
    """When it got this status."""
    next_attempt_at: datetime | None
    snoozed_until: datetime | None = None
    """The same time, if its handler snoozed and it does not wait for a retry."""
    begun_at: datetime | None = None
    """When its first attempt began; None if none has begun."""


class InFlight:
    """Read what is known of the jobs in flight; change nothing."""

    def __init__(self, connection: Connection, names: Names, state: StateStore) -> None:
        self._connection = connection
        self._names = names
        self._state = state

    async def jobs(self, busy: Mapping[Shard, ConsumerInfo], limit: int) -> list[RunningJob]:
        """Return the jobs that shards have in flight, those delivered longest ago first; leave out ended ones.

        Args:
            busy: Shards that have a job in flight, with their consumers' information.
            limit: How many jobs to read, at most.

        Raises:
            JobError: `RunnerUnavailable`, if the server or the bucket cannot be reached.
        """
        longest = sorted(busy.items(), key=lambda each: each[1].last_active)[:limit]
        found = await asyncio.gather(*(self._job(shard, info) for shard, info in longest))
        return [job for job in found if job is not None]

    async def _job(self, shard: Shard, info: ConsumerInfo) -> RunningJob | None:
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
        return RunningJob(
            job_id=entry.job_id,
            priority=shard.priority,
            shard=shard.consumer,
            status=entry.status,
            type=entry.type,
            entity=entry.entity,
            tenant=entry.tenant,
            attempt=entry.attempts,
            max_attempts=entry.max_attempts,
            worker=entry.worker,
            since=entry.history[-1].timestamp if entry.history else info.last_active,
            next_attempt_at=entry.next_attempt_at if entry.status is Status.QUEUED else None,
            snoozed_until=entry.snoozed_until,
            begun_at=next((item.timestamp for item in entry.history if item.status is Status.PROCESSING), None),
        )

    async def _entry(self, queue: Queue, sequence: int) -> JobStatusResponse | None:
        """Return what is known of the job in a message; None if it has ended."""
        found = await self._state.read(plain_id(queue, sequence))
        if found is not None and not found.is_deleted:
            return found.entry
        job = await fetch_job(self._connection, self._names, queue, sequence)
        if job is None:
            return None
        if job.has_given_id:
            found = await self._state.read(job.job_id)
            if found is not None and not found.is_deleted:
                return None if found.entry is None else job.own(found.entry)
        return job.entry()
