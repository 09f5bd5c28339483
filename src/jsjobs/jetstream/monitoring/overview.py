"""Read the state of a namespace at one moment, in a bounded number of requests, and the rates between two readings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from jsjobs.jetstream.api.messages import find_stored
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo, MessageRequest, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import no_streams
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.monitoring.backlog import first_waiting
from jsjobs.jetstream.monitoring.running_jobs import InFlight, RunningJob
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology.generations import live_shards, read_live
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

_ASKED_FOR_OLDEST = 4
"""Shards of a priority whose first waiting job is read, at most."""


_ASKED_FOR_RETRIES = 64
"""Jobs in flight whose entries are read even if fewer are listed, to tell whether they run or wait for their next
attempt. None are read if no running jobs are listed."""


@dataclass(frozen=True, slots=True)
class ShardLook:
    """One shard at the moment of a reading."""

    shard: Shard
    is_next: bool
    """Whether its generation starts only once all before it are drained: the shard count is being changed."""
    waiting: int
    """Jobs that no worker has been given yet."""
    running: int
    """Jobs that a worker has, or that wait for their next attempt; one at most."""
    redelivered: int
    """How many of the running ones were delivered more than once."""
    paused: bool
    paused_until: datetime | None
    has_worker: bool
    deliveries: int
    """Deliveries so far, repeated ones included."""
    last_delivered: int
    """The sequence of the last job that it delivered, 0 if there was none; waiting jobs come after it."""
    created_at: datetime
    seen_at: datetime
    deliveries_per_second: float | None = None
    """None as long as there are no two readings to compare."""
    is_busy: bool = False
    """Whether it has workers, but none that takes another job now: all of them run as many as they may."""
    retrying: int = 0
    """How many of the running ones wait for their next attempt."""

    @property
    def unfinished(self) -> int:
        """Return the number of its jobs that have not ended."""
        return self.waiting + self.running

    @property
    def name(self) -> str:
        """Return its consumer's name, `<priority>-<generation>-<number>`."""
        return self.shard.consumer

    @property
    def generation(self) -> Generation:
        """Return the generation it belongs to."""
        return self.shard.generation


@dataclass(frozen=True, slots=True)
class PriorityLook:
    """One priority at the moment of a reading: its queue, and the sums of its shards."""

    priority: Priority
    waiting: int
    running: int
    redelivered: int
    oldest_waiting_seconds: float | None
    """The age of the job that waits longest; if many shards are busy, of the oldest job in a few of them."""
    stored: int
    """Messages in the queue's stream: waiting and running jobs, and those that wait for a dead-letter router."""
    last_sequence: int
    created_at: datetime
    seen_at: datetime
    shards: tuple[ShardLook, ...]
    submitted_per_second: float | None = None
    """None as long as there are no two readings to compare."""
    finished_per_second: float | None = None
    """Jobs that left the queue, however they ended."""
    retrying: int = 0
    """How many of the running ones wait for their next attempt, as far as their entries were read."""

    @property
    def unfinished(self) -> int:
        """Return the number of its jobs that have not ended."""
        return self.waiting + self.running

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
    """The jobs in flight, those delivered longest ago first; as many as were asked for."""
    running_not_listed: int
    letters_waiting: int
    """Letters and advisories that no router has brought into Postgres yet."""


class Observer:
    """Read the state of a namespace; change nothing.

    A reading costs nine requests. If running jobs are listed, each costs one more (three if its entry alone does not
    tell), and so do at least the first 64 in flight. At most sixteen more find the oldest waiting jobs, and four more
    the order of generations during a change. One more tells whether a worker is at its bound, if nobody listens to a
    shard.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._in_flight = InFlight(connection, names, StateStore(connection, names))

    async def look(self, running_limit: int) -> Overview:
        """Return the present state of the namespace.

        Args:
            running_limit: How many running jobs to list, at most.

        Raises:
            JobError: `NotFound`, if the namespace has no queues; `RunnerUnavailable`, if the server cannot be reached.
        """
        names = [self._names.stream(priority) for priority in Priority]
        *queues, dead = await asyncio.gather(
            *(find_stream(self._connection, name) for name in (*names, self._names.dead_stream))
        )
        found = {priority: info for priority, info in zip(Priority, queues, strict=True) if info is not None}
        if not found:
            raise JobError.from_not_found(no_streams(self._names.namespace))
        shards = await live_shards(self._connection, self._names)
        busy = {shard: info for shard, info in shards.items() if info.num_ack_pending}
        alone = any(not info.push_bound for info in shards.values())
        anybody = alone and await self._is_a_worker_busy()
        looks, running = await asyncio.gather(
            asyncio.gather(*(self._priority(priority, info, shards, anybody) for priority, info in found.items())),
            self._in_flight.jobs(busy, max(running_limit, _ASKED_FOR_RETRIES) if running_limit else 0),
        )
        retrying = {job.shard for job in running if job.next_attempt_at is not None}
        return Overview(
            namespace=self._names.namespace,
            at=max(info.ts for info in found.values()),
            priorities=tuple(_with_retries(look, retrying) for look in looks),
            running=tuple(running[:running_limit]),
            running_not_listed=max(0, len(busy) - running_limit),
            letters_waiting=dead.state.messages if dead else 0,
        )

    async def _is_a_worker_busy(self) -> bool:
        """Return whether some worker does not listen to every shard, because it runs as many jobs as it may."""
        request: MessageRequest = {"last_by_subj": self._names.busy_worker.decode()}
        try:
            found = await find_stored(self._connection, self._names.state_stream, request)
        except JobError:
            return False
        return found is not None and bool(found.data)

    async def _priority(
        self, priority: Priority, queue: StreamInfo, all_shards: Mapping[Shard, ConsumerInfo], anybody: bool
    ) -> PriorityLook:
        infos = {shard: info for shard, info in all_shards.items() if shard.priority is priority}
        first = await self._first_generation(priority, infos)
        shards = [_shard_look(shard, info, first, anybody=anybody) for shard, info in infos.items()]
        waiting = sum(shard.waiting for shard in shards)
        oldest = await self._oldest(queue, infos, first) if waiting else None
        state, seen_at = queue.state, queue.ts
        return PriorityLook(
            priority=priority,
            waiting=waiting,
            running=sum(shard.running for shard in shards),
            redelivered=sum(shard.redelivered for shard in shards),
            oldest_waiting_seconds=None if oldest is None else max(0.0, (seen_at - oldest).total_seconds()),
            stored=state.messages,
            last_sequence=state.last_seq,
            created_at=queue.created,
            seen_at=seen_at,
            shards=tuple(sorted(shards, key=lambda look: (look.is_next, look.generation, look.shard.number))),
        )

    async def _first_generation(self, priority: Priority, infos: Mapping[Shard, ConsumerInfo]) -> Generation | None:
        """Return the generation that runs if shards of several exist; None otherwise."""
        present = {shard.generation for shard in infos}
        if len(present) < 2:  # noqa: PLR2004 - several
            return None
        live = (await read_live(self._connection, self._names, priority)).generations
        return next((generation for generation in live if generation in present), None)

    async def _oldest(
        self, queue: StreamInfo, infos: Mapping[Shard, ConsumerInfo], first: Generation | None
    ) -> datetime | None:
        """Return when the job that waits longest was stored; None if it is gone by now."""
        state = queue.state
        in_flight = {info.delivered.stream_seq for info in infos.values() if info.num_ack_pending}
        if state.messages and state.first_seq not in in_flight:
            return state.first_ts
        waiting = [(shard, info) for shard, info in infos.items() if info.num_pending]
        # The jobs of a later generation are younger than all jobs of the first one.
        begun = [(shard, info) for shard, info in waiting if first is None or shard.generation == first]
        behind = sorted(begun or waiting, key=lambda each: each[1].delivered.stream_seq)
        stored = await asyncio.gather(
            *(
                first_waiting(self._connection, self._names, shard, info.delivered.stream_seq)
                for shard, info in behind[:_ASKED_FOR_OLDEST]
            )
        )
        return min((moment for moment in stored if moment is not None), default=None)


def _with_retries(look: PriorityLook, retrying: set[str]) -> PriorityLook:
    shards = tuple(replace(shard, retrying=1) if shard.name in retrying else shard for shard in look.shards)
    return replace(look, shards=shards, retrying=sum(shard.retrying for shard in shards))


def _shard_look(shard: Shard, info: ConsumerInfo, first: Generation | None, *, anybody: bool) -> ShardLook:
    is_bound = info.push_bound
    return ShardLook(
        shard=shard,
        is_next=first is not None and shard.generation != first,
        waiting=info.num_pending,
        running=info.num_ack_pending,
        redelivered=info.num_redelivered,
        paused=info.paused,
        paused_until=info.paused_until,
        has_worker=is_bound or anybody,
        is_busy=anybody and not is_bound,
        deliveries=info.delivered.consumer_seq,
        last_delivered=info.delivered.stream_seq,
        created_at=info.created,
        seen_at=info.ts,
    )


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
    if before is None or now.created_at != before.created_at:
        return now
    moments = (now.seen_at, before.seen_at)
    earlier = {look.shard: look for look in before.shards}
    return replace(
        now,
        submitted_per_second=per_second(now.last_sequence, before.last_sequence, *moments),
        finished_per_second=per_second(now.last_sequence - now.stored, before.last_sequence - before.stored, *moments),
        shards=tuple(_shard(look, earlier.get(look.shard)) for look in now.shards),
    )


def _shard(now: ShardLook, before: ShardLook | None) -> ShardLook:
    if before is None or now.created_at != before.created_at:
        return now
    rate = per_second(now.deliveries, before.deliveries, now.seen_at, before.seen_at)
    return replace(now, deliveries_per_second=rate)


def per_second(now: int, before: int, at: datetime, earlier: datetime) -> float | None:
    """Return a counter's growth per second; None if it or the clock went back, as when another server answered."""
    seconds = (at - earlier).total_seconds()
    return (now - before) / seconds if seconds > 0 and now >= before else None
