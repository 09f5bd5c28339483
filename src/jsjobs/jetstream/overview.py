"""What the server knows of one namespace at one moment, in a bounded number of requests, whatever is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from jsjobs.jetstream.api import find, parse_time, server_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import no_streams
from jsjobs.jetstream.generations import live_shards, read_live
from jsjobs.jetstream.in_flight import InFlight, RunningJob
from jsjobs.jetstream.oldest import first_waiting
from jsjobs.jetstream.shard_consumers import paused_until
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.stored import find_stored
from jsjobs.jetstream.subjects import Generation, Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

_ASKED_FOR_OLDEST = 4
"""Shards of a priority that are asked for the first job that waits in them, at most."""


_ASKED_FOR_RETRIES = 64
"""Jobs in flight that are asked whether they run or wait for their next attempt, where any are listed; at most."""

ShardInfo = dict[str, Any]
"""A shard's consumer as the server describes it."""


@dataclass(frozen=True, slots=True)
class ShardLook:
    """One shard at the moment of a look."""

    shard: Shard
    is_next: bool
    """Of a generation that begins when all before it are drained: the shard count is being changed."""
    waiting: int
    """Jobs that no worker has been given yet."""
    running: int
    """Jobs that a worker has, or that wait for their next attempt: one at most."""
    redelivered: int
    """How many of the running ones were delivered more than once."""
    paused: bool
    paused_until: datetime | None
    has_worker: bool
    deliveries: int
    """Deliveries so far, repeated ones included."""
    last_delivered: int
    """Place in the queue of the last job it was given, 0 if there was none: those that wait are behind it."""
    created_at: datetime
    seen_at: datetime
    deliveries_per_second: float | None = None
    """None as long as there are no two looks to compare."""
    is_busy: bool = False
    """Whether it has workers, but none that takes another job now: all run as many as they may."""
    retrying: int = 0
    """How many of the running ones wait for their next attempt."""

    @property
    def name(self) -> str:
        """Its consumer's name, `<priority>-<generation>-<number>`."""
        return self.shard.consumer

    @property
    def generation(self) -> Generation:
        """The generation it belongs to."""
        return self.shard.generation


@dataclass(frozen=True, slots=True)
class PriorityLook:
    """One priority at the moment of a look: its queue, and the sums of its shards."""

    priority: Priority
    waiting: int
    running: int
    redelivered: int
    oldest_waiting_seconds: float | None
    """Age of the job that waits longest; where many shards are busy, of the oldest that a few of them hold."""
    stored: int
    """Messages in the queue's stream: waiting and running ones, and what waits for a dead-letter router."""
    last_sequence: int
    created_at: datetime
    seen_at: datetime
    shards: tuple[ShardLook, ...]
    submitted_per_second: float | None = None
    """None as long as there are no two looks to compare."""
    finished_per_second: float | None = None
    """Jobs that left the queue, however they ended."""
    retrying: int = 0
    """How many of the running ones wait for their next attempt, as far as they were asked."""

    @property
    def running_shards(self) -> tuple[ShardLook, ...]:
        """The shards whose turn it is: all but those of a generation that has not begun."""
        return tuple(shard for shard in self.shards if not shard.is_next)

    @property
    def next_shards(self) -> tuple[ShardLook, ...]:
        """The shards of generations that have not begun; empty unless the shard count is being changed."""
        return tuple(shard for shard in self.shards if shard.is_next)


@dataclass(frozen=True, slots=True)
class Overview:
    """One namespace at the moment of a look."""

    namespace: str
    at: datetime
    """By the server's clock."""
    priorities: tuple[PriorityLook, ...]
    running: tuple[RunningJob, ...]
    """The jobs in flight, those delivered longest ago first, as many as were asked for."""
    running_not_listed: int
    letters_waiting: int
    """Letters and advisories that no router has brought into Postgres yet."""


class Observer:
    """Looks at a namespace; changes nothing.

    A look costs nine requests; where running jobs are listed, one more for each, and for the first 64 in flight at
    least (three, where its entry alone does not tell); at most sixteen more tell the oldest waiting jobs, four more the
    order of generations during a change, one whether a worker is at its bound, where nobody listens to a shard.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._in_flight = InFlight(connection, names, StateStore(connection, names))

    async def look(self, running_limit: int) -> Overview:
        """What is there now.

        Args:
            running_limit: How many running jobs to list, at most.

        Raises:
            JobError: `NotFound`, if the namespace has no queues; `RunnerUnavailable`, if the server cannot be reached.
        """
        names = [self._names.stream(priority) for priority in Priority]
        *queues, dead = await asyncio.gather(
            *(find(self._connection, f"STREAM.INFO.{name}") for name in (*names, self._names.dead_stream))
        )
        found = {priority: info for priority, info in zip(Priority, queues, strict=True) if info is not None}
        if not found:
            raise JobError.from_not_found(no_streams(self._names.namespace))
        shards = await live_shards(self._connection, self._names)
        busy = {shard: info for shard, info in shards.items() if info["num_ack_pending"]}
        alone = any(not info.get("push_bound") for info in shards.values())
        anybody = alone and await self._is_a_worker_busy()
        looks, running = await asyncio.gather(
            asyncio.gather(*(self._priority(priority, info, shards, anybody) for priority, info in found.items())),
            self._in_flight.jobs(busy, max(running_limit, _ASKED_FOR_RETRIES) if running_limit else 0),
        )
        retrying = {job.shard for job in running if job.next_attempt_at is not None}
        return Overview(
            namespace=self._names.namespace,
            at=max(server_time(info) for info in found.values()),
            priorities=tuple(_with_retries(look, retrying) for look in looks),
            running=tuple(running[:running_limit]),
            running_not_listed=max(0, len(busy) - running_limit),
            letters_waiting=dead["state"]["messages"] if dead else 0,
        )

    async def _is_a_worker_busy(self) -> bool:
        """Whether there is a worker that does not listen to each shard: it runs as many jobs as it may."""
        request = {"last_by_subj": self._names.busy_worker.decode()}
        try:
            found = await find_stored(self._connection, self._names.state_stream, request)
        except JobError:
            return False
        return found is not None and bool(found.data)

    async def _priority(
        self, priority: Priority, queue: dict[str, Any], all_shards: Mapping[Shard, ShardInfo], anybody: bool
    ) -> PriorityLook:
        infos = {shard: info for shard, info in all_shards.items() if shard.priority is priority}
        first = await self._first_generation(priority, infos)
        shards = [_shard_look(shard, info, first, anybody=anybody) for shard, info in infos.items()]
        waiting = sum(shard.waiting for shard in shards)
        oldest = await self._oldest(queue, infos, first) if waiting else None
        state, seen_at = queue["state"], server_time(queue)
        return PriorityLook(
            priority=priority,
            waiting=waiting,
            running=sum(shard.running for shard in shards),
            redelivered=sum(shard.redelivered for shard in shards),
            oldest_waiting_seconds=None if oldest is None else max(0.0, (seen_at - oldest).total_seconds()),
            stored=state["messages"],
            last_sequence=state["last_seq"],
            created_at=parse_time(queue["created"]),
            seen_at=seen_at,
            shards=tuple(sorted(shards, key=lambda look: (look.is_next, look.generation, look.shard.number))),
        )

    async def _first_generation(self, priority: Priority, infos: Mapping[Shard, ShardInfo]) -> Generation | None:
        """The generation that runs, where shards of several exist; None where that is no question."""
        present = {shard.generation for shard in infos}
        if len(present) < 2:  # noqa: PLR2004 - several
            return None
        live = (await read_live(self._connection, self._names, priority)).generations
        return next((generation for generation in live if generation in present), None)

    async def _oldest(
        self, queue: dict[str, Any], infos: Mapping[Shard, ShardInfo], first: Generation | None
    ) -> datetime | None:
        """When the job that waits longest was stored."""
        state = queue["state"]
        in_flight = {info["delivered"]["stream_seq"] for info in infos.values() if info["num_ack_pending"]}
        if state["messages"] and state["first_seq"] not in in_flight:
            return parse_time(state["first_ts"])
        waiting = [(shard, info) for shard, info in infos.items() if info["num_pending"]]
        # What a later generation holds is younger than all that the first one holds.
        begun = [(shard, info) for shard, info in waiting if first is None or shard.generation == first]
        behind = sorted(begun or waiting, key=lambda each: each[1]["delivered"]["stream_seq"])
        stored = await asyncio.gather(
            *(
                first_waiting(self._connection, self._names, shard, info["delivered"]["stream_seq"])
                for shard, info in behind[:_ASKED_FOR_OLDEST]
            )
        )
        return min((moment for moment in stored if moment is not None), default=None)


def _with_retries(look: PriorityLook, retrying: set[str]) -> PriorityLook:
    shards = tuple(replace(shard, retrying=1) if shard.name in retrying else shard for shard in look.shards)
    return replace(look, shards=shards, retrying=sum(shard.retrying for shard in shards))


def _shard_look(shard: Shard, info: ShardInfo, first: Generation | None, *, anybody: bool) -> ShardLook:
    is_bound = bool(info.get("push_bound"))
    return ShardLook(
        shard=shard,
        is_next=first is not None and shard.generation != first,
        waiting=info["num_pending"],
        running=info["num_ack_pending"],
        redelivered=info["num_redelivered"],
        paused=bool(info.get("paused")),
        paused_until=paused_until(info),
        has_worker=is_bound or anybody,
        is_busy=anybody and not is_bound,
        deliveries=info["delivered"]["consumer_seq"],
        last_delivered=info["delivered"]["stream_seq"],
        created_at=parse_time(info["created"]),
        seen_at=server_time(info),
    )
