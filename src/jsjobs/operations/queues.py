"""Show the queues, for people and programs: what waits and runs in them, and whether anybody takes their jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.backlog import oldest_waiting
from jsjobs.jetstream.monitoring.overview import Observer, Overview, PriorityLook, ShardLook
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.consumers import FOR_GOOD, UNTIL_RESUMED
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, PriorityName, checked_priority
from jsjobs.model.queues import QueueStatus, ShardStatus

_ASKED = 1
"""Running jobs that a reading lists. They are not shown; it tells how many wait for their next attempt."""


class Queues:
    """The queues of a namespace: `JobService.queues`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._observer = Observer(connection, names)

    async def overview(self, running: int = 20) -> Overview:
        """Return what `jsjobs top` shows: queues, running jobs, and dead letters on their way.

        It costs the server nine requests, and one to three more for each of up to 64 running jobs, or as many as are
        listed.

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

        It costs the server as much as `overview`, and one request more for each shard in which jobs wait.

        Raises:
            JobError: `NotFound`, if the namespace has no queues; `RunnerUnavailable`.
        """
        looks = (await self.overview(_ASKED)).priorities
        waiting = [shard for look in looks for shard in look.shards if shard.waiting]
        places = ((shard.shard, shard.last_delivered) for shard in waiting)
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


def _queue_status(look: PriorityLook, oldest: Mapping[Shard, datetime | None]) -> QueueStatus:
    return QueueStatus(
        priority=look.priority,
        **_load(look, look.running_shards, [oldest.get(each.shard) for each in look.shards]),
        shards=tuple(_shard_status(each, oldest.get(each.shard)) for each in look.shards),
    )


def _shard_status(look: ShardLook, oldest: datetime | None) -> ShardStatus:
    return ShardStatus(
        name=look.name,
        generation=str(look.generation),
        is_next=look.is_next,
        **_load(look, [look], [oldest]),
        has_worker=look.has_worker,
        is_busy=look.is_busy,
    )


def _load(look: PriorityLook | ShardLook, shards: Sequence[ShardLook], oldest: Sequence[datetime | None]) -> _Load:
    # A shard that is held back while others are drained was not paused by anybody.
    ends = [shard.paused_until for shard in shards if shard.paused_until not in {None, FOR_GOOD}]
    paused = bool(shards) and len(ends) == len(shards)
    first = min((moment for moment in oldest if moment is not None), default=None)
    return _Load(
        waiting=look.waiting,
        running=look.running - look.retrying,
        retrying=look.retrying,
        redelivered=look.redelivered,
        oldest_waiting_seconds=None if first is None else max(0.0, (look.seen_at - first).total_seconds()),
        paused=paused,
        paused_until=min((end for end in ends if end != UNTIL_RESUMED), default=None) if paused else None,
    )
