"""Show the queues, for people and programs: what waits and runs in them, and what holds a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.backlog import oldest_waiting
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.monitoring.overview import ConsumerLook, Overview, PartitionLook, PriorityLook, ShardLook
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology.consumers import FOR_GOOD, UNTIL_RESUMED
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, PriorityName, checked_priority
from jsjobs.model.queues import PartitionStatus, QueueStatus, ShardStatus
from jsjobs.settings import MAX_SHARDS

_LISTED = len(Priority) * MAX_SHARDS
"""Running jobs that a reading lists, so that the one that holds each shard is among them."""


class Queues:
    """The queues of a namespace: `JobService.queues`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._observer = Observer(connection, names)

    async def overview(self, running: int = 20) -> Overview:
        """Return what `jsjobs top` shows: queues, running jobs, and dead letters on their way.

        It costs the server 17 requests, one to three more for each of up to 64 shards with a running job, or as many as
        are listed, and one for each of at most 200 running jobs of the parallel lanes; see `Observer`.

        Args:
            running: How many running jobs to list, at most; with 0, jobs that wait for their next attempt are not told
                from running ones.

        Raises:
            JobError: `NotFound`, if the namespace has no queues; `RunnerUnavailable`.
        """
        return await self._observer.look(running)

    async def show(self, priority: Priority | PriorityName) -> QueueStatus:
        """Return the queue of one priority.

        Raises:
            JobError: `NotFound`, if the namespace has no such queue; `Validation`, if the priority is invalid;
                `RunnerUnavailable`.
        """
        wanted = checked_priority(priority)
        for status in await self.list():
            if status.priority is wanted:
                return status
        raise JobError.from_not_found(f"there is no queue {wanted}: run `jsjobs streams apply`")

    async def list(self) -> list[QueueStatus]:
        """Return the queues of all priorities, the highest first.

        It costs the server as much as `overview`, where all shards are asked for the job that holds them, and one
        request more for each shard or partition in which jobs wait.

        Raises:
            JobError: `NotFound`, if the namespace has no queues; `RunnerUnavailable`.
        """
        looks = (await self.overview(_LISTED)).priorities
        places: list[tuple[Shard | Partition, int]] = []
        for look in looks:
            places += [(shard.shard, shard.last_delivered) for shard in look.shards if shard.waiting]
            places += [(one.partition, one.last_delivered) for one in look.partitions if one.waiting]
        oldest = await oldest_waiting(self._connection, self._names, places)
        return [_queue_status(look, oldest) for look in looks]


class _Load(TypedDict):
    waiting: int
    running: int
    retrying: int
    redelivered: int
    oldest_waiting_seconds: float | None
    paused: bool
    paused_until: datetime | None


def _queue_status(look: PriorityLook, oldest: Mapping[Shard | Partition, datetime | None]) -> QueueStatus:
    shards = tuple(_shard_status(each, oldest.get(each.shard)) for each in look.shards)
    partitions = tuple(_partition_status(each, oldest.get(each.partition)) for each in look.partitions)
    ages = [each.oldest_waiting_seconds for each in (*shards, *partitions)]
    age = max((age for age in ages if age is not None), default=None)
    return QueueStatus(
        priority=look.priority,
        **_load(look, [*look.running_shards, *look.partitions], age),
        shards=shards,
        partitions=partitions,
    )


def _shard_status(look: ShardLook, oldest: datetime | None) -> ShardStatus:
    return ShardStatus(
        name=look.name,
        generation=str(look.generation),
        is_next=look.is_next,
        **_load(look, [look], _age(look, oldest)),
        has_worker=look.has_worker,
        held_by=look.held_by,
    )


def _partition_status(look: PartitionLook, oldest: datetime | None) -> PartitionStatus:
    moments = [moment for moment in (oldest, look.first_given_back) if moment is not None]
    age = _age(look, min(moments, default=None))
    return PartitionStatus(name=look.name, **_load(look, [look], age), unread=look.unread, has_worker=look.has_worker)


def _age(look: ConsumerLook, stored_at: datetime | None) -> float | None:
    return None if stored_at is None else max(0.0, (look.seen_at - stored_at).total_seconds())


def _load(look: PriorityLook | ConsumerLook, consumers: Sequence[ConsumerLook], oldest: float | None) -> _Load:
    # A shard that is held back while others are drained was not paused by anybody.
    ends = [each.paused_until for each in consumers if each.paused_until not in {None, FOR_GOOD}]
    paused = bool(consumers) and len(ends) == len(consumers)
    return _Load(
        waiting=look.waiting,
        running=look.running,
        retrying=look.retrying,
        redelivered=look.redelivered,
        oldest_waiting_seconds=oldest,
        paused=paused,
        paused_until=min((end for end in ends if end != UNTIL_RESUMED), default=None) if paused else None,
    )
