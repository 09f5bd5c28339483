"""Read the state of a namespace at one moment, in a bounded number of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, TypeVar

from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import no_streams
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.monitoring.backlog import first_waiting
from jsjobs.jetstream.monitoring.overview import Overview, PartitionLook, PriorityLook, QueueLook, ShardLook
from jsjobs.jetstream.monitoring.running_jobs import InFlight, PartitionJobs
from jsjobs.jetstream.protocol.names import Generation, Names, Partition, Shard
from jsjobs.jetstream.topology.generations import Shards, live_shards, read_live
from jsjobs.jetstream.topology.partitions import Partitions, live_partitions
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import QUEUES, Lane, Queue
from jsjobs.model.queues import RunningJob

P = TypeVar("P", Shard, Partition)

_ASKED_FOR_OLDEST = 4
"""Shards or partitions of a queue whose first waiting job is read, at most."""
_READ_OF_SHARDS = 64
"""Jobs of shards whose entries are read even if fewer are listed, to tell whether they run or wait for their next
attempt. None are read if no running jobs are listed."""
READ_OF_LANES = 200
"""Jobs in flight of all parallel lanes together whose entries are read, at most, to tell the same of them."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading found, before it is put together."""

    queues: Mapping[Queue, StreamInfo]
    shards: Shards
    partitions: Partitions
    held: Mapping[Shard, RunningJob]
    jobs: Mapping[Partition, PartitionJobs]


class Observer:
    """Read the state of a namespace; change nothing.

    A reading costs 17 requests. If running jobs are listed, there are one to three more for each of as many shards as
    are listed, or of 64; two for each partition with jobs in flight, and one for each of at most 200 jobs in them. At
    most 32 more find the oldest waiting jobs, and four more the order of generations during a change.
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
        streams = [*map(self._names.queue, QUEUES), self._names.dead_stream]
        *queues, dead = await asyncio.gather(*(find_stream(self._connection, name) for name in streams))
        there = {queue: info for queue, info in zip(QUEUES, queues, strict=True) if info is not None}
        if not there:
            raise JobError.from_not_found(no_streams(self._names.namespace))
        shards, partitions = await asyncio.gather(
            live_shards(self._connection, self._names), live_partitions(self._connection, self._names)
        )
        busy = {shard: info for shard, info in shards.items() if info.num_ack_pending}
        busy_partitions = {partition: info for partition, info in partitions.items() if info.num_ack_pending}
        read = max(running_limit, _READ_OF_SHARDS) if running_limit else 0
        held, jobs = await asyncio.gather(
            self._in_flight.of_shards(busy, read),
            self._in_flight.of_partitions(busy_partitions, READ_OF_LANES if running_limit else 0),
        )
        found = _Found(there, shards, partitions, held, jobs)
        priorities = sorted({queue.priority for queue in there}, key=list(Priority).index)
        running = _listed(held, jobs)
        unread = max(0, len(busy) - read) + sum(each.unread for each in jobs.values())
        return Overview(
            namespace=self._names.namespace,
            at=max(info.ts for info in there.values()),
            priorities=tuple(await asyncio.gather(*(self._priority(priority, found) for priority in priorities))),
            running=tuple(running[:running_limit]),
            running_not_listed=unread + max(0, len(running) - running_limit),
            letters_waiting=dead.state.messages if dead else 0,
        )

    async def _priority(self, priority: Priority, found: _Found) -> PriorityLook:
        shards = {shard: info for shard, info in found.shards.items() if shard.priority is priority}
        partitions = {partition: info for partition, info in found.partitions.items() if partition.priority is priority}
        first = await self._first_generation(priority, shards)
        shard_looks = [_shard_look(shard, info, first, found.held.get(shard)) for shard, info in shards.items()]
        is_worked = any(info.push_bound for info in shards.values())
        partition_looks = [
            _partition_look(one, info, found.jobs.get(one, PartitionJobs()), is_worked=is_worked)
            for one, info in partitions.items()
        ]
        both = [*shard_looks, *partition_looks]
        queues = {queue: info for queue, info in found.queues.items() if queue.priority is priority}
        return PriorityLook(
            priority=priority,
            waiting=sum(look.waiting for look in both),
            running=sum(look.running for look in both),
            retrying=sum(look.retrying for look in both),
            redelivered=sum(look.redelivered for look in both),
            oldest_waiting_seconds=await self._oldest(queues, shards, first, partitions, partition_looks),
            queues=tuple(_queue_look(queue, info) for queue, info in queues.items()),
            shards=tuple(sorted(shard_looks, key=lambda look: (look.is_next, look.generation, look.shard.number))),
            partitions=tuple(sorted(partition_looks, key=lambda look: look.partition.number)),
        )

    async def _first_generation(self, priority: Priority, infos: Mapping[Shard, ConsumerInfo]) -> Generation | None:
        """Return the generation that runs if shards of several exist; None otherwise."""
        present = {shard.generation for shard in infos}
        if len(present) < 2:  # noqa: PLR2004 - several
            return None
        live = (await read_live(self._connection, self._names, priority)).generations
        return next((generation for generation in live if generation in present), None)

    async def _oldest(
        self,
        queues: Mapping[Queue, StreamInfo],
        shards: Shards,
        first: Generation | None,
        partitions: Partitions,
        looks: Collection[PartitionLook],
    ) -> float | None:
        """Return for how many seconds the job has waited that waits longest in a priority; None if none does."""
        waiting = {shard: info for shard, info in shards.items() if info.num_pending}
        # The jobs of a later generation are younger than all jobs of the first one.
        begun = {shard: info for shard, info in waiting.items() if first is None or shard.generation == first}
        behind = {partition: info for partition, info in partitions.items() if info.num_pending}
        # Each shard's only job in flight is known, so it is plain whether the first message of the queue waits.
        known = {info.delivered.stream_seq for info in shards.values() if info.num_ack_pending}
        none = None if any(info.num_ack_pending for info in partitions.values()) else set[int]()
        ages = [(look.seen_at - at).total_seconds() for look in looks if (at := look.first_given_back) is not None]
        for queue, info in queues.items():
            moment = (
                await self._first_stored(info, begun or waiting, known)
                if queue.lane is Lane.ORDERED
                else await self._first_stored(info, behind, none)
            )
            if moment is not None:
                ages.append((info.ts - moment).total_seconds())
        return max(0.0, *ages) if ages else None

    async def _first_stored(
        self, queue: StreamInfo, waiting: Mapping[P, ConsumerInfo], in_flight: set[int] | None
    ) -> datetime | None:
        """Return when the job of a queue was stored that waits longest; None if none does, or it is gone by now.

        Args:
            queue: The queue's stream.
            waiting: Its shards or partitions in which jobs wait.
            in_flight: The sequences of all its jobs in flight; None if they are not known.
        """
        state = queue.state
        if not waiting:
            return None
        if in_flight is not None and state.messages and state.first_seq not in in_flight:
            return state.first_ts
        behind = sorted(waiting.items(), key=lambda each: each[1].delivered.stream_seq)[:_ASKED_FOR_OLDEST]
        stored = await asyncio.gather(
            *(first_waiting(self._connection, self._names, one, info.delivered.stream_seq) for one, info in behind)
        )
        return min((moment for moment in stored if moment is not None), default=None)


def _listed(held: Mapping[Shard, RunningJob], jobs: Mapping[Partition, PartitionJobs]) -> list[RunningJob]:
    """Return the running jobs of both lanes in the order in which they are listed."""
    of_lanes = list(jobs.values())
    running = [*held.values(), *(job for each in of_lanes for job in each.running)]
    retrying = [job for each in of_lanes for job in each.retrying]
    return [*sorted(running, key=lambda job: job.since), *sorted(retrying, key=lambda job: job.since)]


class _Numbers(TypedDict):
    redelivered: int
    paused: bool
    paused_until: datetime | None
    deliveries: int
    last_delivered: int
    active_at: datetime | None
    created_at: datetime
    seen_at: datetime


def _numbers(info: ConsumerInfo) -> _Numbers:
    return {
        "redelivered": info.num_redelivered,
        "paused": info.paused,
        "paused_until": info.paused_until,
        "deliveries": info.delivered.consumer_seq,
        "last_delivered": info.delivered.stream_seq,
        "active_at": info.delivered.last_active,
        "created_at": info.created,
        "seen_at": info.ts,
    }


def _shard_look(shard: Shard, info: ConsumerInfo, first: Generation | None, held_by: RunningJob | None) -> ShardLook:
    is_retrying = held_by is not None and held_by.next_attempt_at is not None
    return ShardLook(
        shard=shard,
        is_next=first is not None and shard.generation != first,
        waiting=info.num_pending,
        running=info.num_ack_pending - is_retrying,
        retrying=int(is_retrying),
        has_worker=info.push_bound,
        held_by=held_by,
        **_numbers(info),
    )


def _partition_look(partition: Partition, info: ConsumerInfo, jobs: PartitionJobs, *, is_worked: bool) -> PartitionLook:
    return PartitionLook(
        partition=partition,
        waiting=info.num_pending + len(jobs.given_back),
        running=len(jobs.running) + jobs.unread,
        retrying=len(jobs.retrying),
        unread=jobs.unread,
        # A worker without a free slot asks for nothing, but goes on listening to the shards.
        has_worker=is_worked or info.num_waiting > 0,
        requests=info.num_waiting,
        ended_up_to=info.ack_floor.stream_seq,
        first_given_back=min(jobs.given_back, default=None),
        **_numbers(info),
    )


def _queue_look(queue: Queue, info: StreamInfo) -> QueueLook:
    state = info.state
    return QueueLook(
        queue=queue, stored=state.messages, last_sequence=state.last_seq, created_at=info.created, seen_at=info.ts
    )
