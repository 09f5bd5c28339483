"""A priority's queues with their shards and partitions, and the jobs that workers have, as they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from jsjobs.model.job import Priority, Status
from jsjobs.model.lanes import Lane, Queue


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that was delivered and has not ended."""

    job_id: str
    priority: Priority
    lane: Lane
    consumer: str
    """The consumer that delivered it: that of its shard, or of its partition."""
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


class Depth(NamedTuple):
    """A place in which jobs are counted."""

    queue: Queue
    number: int
    """The number of the shard or partition."""
    state: str
    """`waiting` or `running`."""


class _Load(BaseModel):
    """The jobs of a priority, a shard or a partition at one moment."""

    model_config = ConfigDict(frozen=True)

    waiting: int
    """Jobs that no worker has."""
    running: int
    """Jobs that a worker has; a shard has one at most."""
    retrying: int
    """Jobs that wait for their next attempt, or whose handler snoozed. One of a shard holds it, one of a partition
    holds up nobody."""
    redelivered: int
    """How many of the running and retrying ones were delivered more than once."""
    oldest_waiting_seconds: float | None
    """For how long the job that waits longest has waited; None if none waits."""
    paused: bool
    paused_until: datetime | None
    """When the pause ends; None if it lasts until somebody resumes the priority."""

    @property
    def unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        return self.waiting + self.running + self.retrying


class ShardStatus(_Load):
    """One shard: an ordered lane for jobs of entities, in which one job runs at a time."""

    name: str
    """The name of its consumer, `<priority>-<generation>-<number>`."""
    generation: str
    """The generation it belongs to: `2x6` is the second one, of six shards."""
    is_next: bool
    """Whether it waits for older shards to be drained: the shard count is being changed."""
    has_worker: bool
    held_by: RunningJob | None
    """The job that runs in it, or waits there for its next attempt: those behind it wait until it has ended."""


class PartitionStatus(_Load):
    """One partition of a parallel lane: jobs without an entity, which run side by side."""

    name: str
    """The name of its consumer, `<priority>-parallel-<number>`."""
    unread: int
    """How many of the running ones may wait for their next attempt instead: only some entries are read."""
    has_worker: bool


class QueueStatus(_Load):
    """The jobs of a priority: the sums of its shards and partitions. It is paused if all of them that run are."""

    priority: Priority
    shards: tuple[ShardStatus, ...]
    partitions: tuple[PartitionStatus, ...]

    @property
    def running_shards(self) -> tuple[ShardStatus, ...]:
        """Return the shards that run: all but those that wait for older ones to be drained."""
        return tuple(shard for shard in self.shards if not shard.is_next)

    @property
    def next_shards(self) -> tuple[ShardStatus, ...]:
        """Return the shards that wait for older ones to be drained; empty unless the shard count is being changed."""
        return tuple(shard for shard in self.shards if shard.is_next)
