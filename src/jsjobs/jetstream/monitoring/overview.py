"""The state of a namespace at one moment, and the rates between two such readings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from jsjobs.jetstream.protocol.names import Generation, Partition, Shard
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue
from jsjobs.model.queues import RunningJob

L = TypeVar("L", "ShardLook", "PartitionLook")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLook:
    """One shard or partition at the moment of a reading."""

    waiting: int
    """Jobs that no worker has."""
    running: int
    """Jobs that a worker has, and jobs in flight whose entries were not read; one at most in a shard."""
    retrying: int = 0
    """Jobs that wait for their next attempt, or whose handler snoozed."""
    redelivered: int
    """How many of the running and retrying ones were delivered more than once."""
    paused: bool
    paused_until: datetime | None
    has_worker: bool
    deliveries: int
    """Deliveries so far, repeated ones included."""
    last_delivered: int
    """The sequence of the last job that was delivered for the first time; 0 if there was none."""
    active_at: datetime | None = None
    """When something was delivered last; None if nothing was."""
    created_at: datetime
    seen_at: datetime
    deliveries_per_second: float | None = None
    """None as long as there are no two readings to compare."""

    @property
    def in_flight(self) -> int:
        """Return the number of its jobs that were delivered and have not ended."""
        return self.running + self.retrying

    @property
    def unfinished(self) -> int:
        """Return the number of its jobs that have not ended."""
        return self.waiting + self.in_flight


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLook(ConsumerLook):
    """One shard at the moment of a reading."""

    shard: Shard
    is_next: bool
    """Whether its generation starts only once all before it are drained: the shard count is being changed."""
    held_by: RunningJob | None = None
    """The job that it has in flight, if its entry was read."""

    @property
    def name(self) -> str:
        """Return its consumer's name, `<priority>-<generation>-<number>`."""
        return self.shard.consumer

    @property
    def generation(self) -> Generation:
        """Return the generation it belongs to."""
        return self.shard.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLook(ConsumerLook):
    """One partition of a parallel lane at the moment of a reading."""

    partition: Partition
    unread: int = 0
    """How many of the running ones may wait for their next attempt instead: their entries were not read."""
    requests: int = 0
    """Requests of workers that wait for a job of it."""
    ended_up_to: int = 0
    """The sequence up to which all its jobs have ended."""
    first_given_back: datetime | None = None
    """When the oldest job was stored that was delivered, and that no worker has; None if none is known."""

    @property
    def name(self) -> str:
        """Return its consumer's name, `<priority>-parallel-<number>`."""
        return self.partition.consumer


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLook:
    """The stream of one priority and lane at the moment of a reading."""

    queue: Queue
    stored: int
    """Messages in it: jobs that have not ended, and those that wait for a dead-letter router."""
    last_sequence: int
    created_at: datetime
    seen_at: datetime
    submitted_per_second: float | None = None
    """None as long as there are no two readings to compare."""
    finished_per_second: float | None = None
    """Jobs that left the queue, however they ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityLook:
    """One priority at the moment of a reading: the sums of both its lanes, and what they consist of."""

    priority: Priority
    waiting: int
    running: int
    retrying: int = 0
    """Jobs that wait for their next attempt, or whose handler snoozed, as far as their entries were read."""
    redelivered: int
    oldest_waiting_seconds: float | None
    """The age of the job that waits longest; if many shards or partitions are busy, of the oldest in a few of them."""
    submitted_per_second: float | None = None
    """None as long as there are no two readings to compare."""
    finished_per_second: float | None = None
    """Jobs that left the queues, however they ended."""
    queues: tuple[QueueLook, ...]
    """The stream of the ordered lane, then that of the parallel lane."""
    shards: tuple[ShardLook, ...]
    partitions: tuple[PartitionLook, ...]

    @property
    def unfinished(self) -> int:
        """Return the number of its jobs that have not ended."""
        return self.waiting + self.running + self.retrying

    @property
    def running_shards(self) -> tuple[ShardLook, ...]:
        """Return the shards that run: all but those of generations that have not started."""
        return tuple(shard for shard in self.shards if not shard.is_next)

    @property
    def next_shards(self) -> tuple[ShardLook, ...]:
        """Return the shards of generations that have not started; empty unless the shard count is being changed."""
        return tuple(shard for shard in self.shards if shard.is_next)


@dataclass(frozen=True, slots=True)
class Overview:
    """One namespace at the moment of a reading."""

    namespace: str
    at: datetime
    """The time by the server's clock."""
    priorities: tuple[PriorityLook, ...]
    running: tuple[RunningJob, ...]
    """The jobs in flight, as many as were asked for: those that have had their status longest first. Jobs of a parallel
    lane that wait for their next attempt come last, since they hold up nobody."""
    running_not_listed: int
    """How many more are in flight."""
    letters_waiting: int
    """Letters and advisories that no router has brought into Postgres yet."""


def with_rates(now: Overview, before: Overview | None) -> Overview:
    """Return the later reading with its rates since the earlier one.

    A rate stays None if there is nothing to compare: at the first reading, or if the stream or consumer was recreated
    between the two.
    """
    if before is None:
        return now
    earlier = {look.priority: look for look in before.priorities}
    return replace(now, priorities=tuple(_priority(look, earlier.get(look.priority)) for look in now.priorities))


def _priority(now: PriorityLook, before: PriorityLook | None) -> PriorityLook:
    if before is None:
        return now
    earlier = {look.queue: look for look in before.queues}
    kept = {look.queue for look in now.queues if _is_same(look, earlier.get(look.queue))}
    shards = {look.shard: look for look in before.shards if look.shard.queue in kept}
    partitions = {look.partition: look for look in before.partitions if look.partition.queue in kept}
    queues = tuple(_queue(look, earlier.get(look.queue)) for look in now.queues)
    return replace(
        now,
        queues=queues,
        submitted_per_second=_total([look.submitted_per_second for look in queues]),
        finished_per_second=_total([look.finished_per_second for look in queues]),
        shards=tuple(_consumer(look, shards.get(look.shard)) for look in now.shards),
        partitions=tuple(_consumer(look, partitions.get(look.partition)) for look in now.partitions),
    )


def _queue(now: QueueLook, before: QueueLook | None) -> QueueLook:
    if before is None or not _is_same(now, before):
        return now
    moments = (now.seen_at, before.seen_at)
    return replace(
        now,
        submitted_per_second=per_second(now.last_sequence, before.last_sequence, *moments),
        finished_per_second=per_second(now.last_sequence - now.stored, before.last_sequence - before.stored, *moments),
    )


def _consumer(now: L, before: ConsumerLook | None) -> L:
    if before is None or not _is_same(now, before):
        return now
    rate = per_second(now.deliveries, before.deliveries, now.seen_at, before.seen_at)
    return replace(now, deliveries_per_second=rate)


def _is_same(now: QueueLook | ConsumerLook, before: QueueLook | ConsumerLook | None) -> bool:
    """Return whether the stream or consumer was there before, and was not recreated since."""
    return before is not None and now.created_at == before.created_at


def _total(rates: list[float | None]) -> float | None:
    """Return the sum of the rates that are known; None if none is."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def per_second(now: int, before: int, at: datetime, earlier: datetime) -> float | None:
    """Return a counter's growth per second; None if it or the clock went back, as when another server answered."""
    seconds = (at - earlier).total_seconds()
    return (now - before) / seconds if seconds > 0 and now >= before else None
