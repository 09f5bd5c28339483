"""Pause a priority and resume it: while it is paused, no further job of it starts, in neither lane.

The pause is written into the priority's list of generations first, then set on its shards and partitions. Those that
are created later, because their number changes or a lost one is created again, take it over from the list.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from jsjobs.jetstream.api.consumers import find_consumer, pause_consumer
from jsjobs.jetstream.api.errors import CONSUMER_NOT_FOUND, ApiError
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.lane_jobs import delivered_jobs
from jsjobs.jetstream.jobs.message import fetch_job
from jsjobs.jetstream.jobs.state_store import Found, StateStore
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology import consumers
from jsjobs.jetstream.topology.consumers import FOR_GOOD, UNTIL_RESUMED
from jsjobs.jetstream.topology.generations import live_shards, read_live, write_live
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, Status, utc_now
from jsjobs.model.lanes import Lane, Queue

MAX_SECONDS = 10 * 365 * 86_400
"""Ten years: the longest pause that has an end."""
_POLL = 0.05
"""Seconds between two checks of what is still undecided."""
_SOON = timedelta(seconds=5)
"""A pause that ends within this time was lifted: to resume a shard is to end its pause in a moment."""
_LATE = timedelta(seconds=1)
"""The time after the end of its lease in which a worker may still begin a job that it was given before the pause."""
_MOST_READ = 10_000
"""Jobs of the parallel lane that are looked at for running ones, at most."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A priority that is paused."""

    priority: Priority
    until: datetime | None
    """When the pause ends; None if it lasts until somebody resumes the priority."""
    running: tuple[str, ...]
    """The ids of the jobs that had begun before the pause and go on, as far as their entries tell."""


_Consumers = dict[Shard | Partition, ConsumerInfo]


class Pausing:
    """Pause and resume the priorities of one namespace; anybody may repeat both."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._state = StateStore(connection, names)

    async def pause(self, priority: Priority, seconds: float | None = None) -> Paused:
        """Let no further attempt start, neither first attempts nor retries; running jobs go on and end as usual.

        It returns once it is known, for every ordered job delivered before, whether that job runs. This is usually at
        once; it takes `ack_wait` if the job's worker died a moment ago. A parallel job that was delivered a moment
        before may still begin within `ack_wait`. Calling it again sets another end. If two callers pause at the same
        time, both return the end that was written last.

        Args:
            priority: The priority to pause.
            seconds: How long to pause; None until it is resumed.

        Returns:
            The end of the pause, and the jobs that still run.

        Raises:
            JobError: `Validation`, if the time is no positive number, or above ten years; `NotFound`, if the priority
                has no shards; `RunnerUnavailable`, if the server cannot be reached: some shards may be paused then;
                also if somebody resumed the priority meanwhile.
        """
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:  # NaN fails this too
            text = f"a pause must last more than 0 seconds and at most ten years, not {str(seconds)[:40]}"
            raise JobError.from_validation(text)
        queue = await find_stream(self._connection, self._names.stream(priority))
        if queue is None:
            raise self._nothing(priority)
        until = UNTIL_RESUMED if seconds is None else queue.ts + timedelta(seconds=seconds)
        await settled(lambda: self._note(priority, until))
        while True:
            # The noted pause counts: somebody else may have changed it by now.
            noted = (await read_live(self._connection, self._names, priority)).operators_pause
            if noted is None:
                await self._lift(priority)
                raise JobError.from_runner_unavailable(f"{priority} was resumed by another process meanwhile")
            found = await self._consumers(priority)
            running = [place for place, info in found.items() if not _is_paused(info, noted)]
            if not running:
                break
            await self._each(running, noted)
        jobs = await self._running(priority, found)
        return Paused(priority, None if noted == UNTIL_RESUMED else noted, jobs)

    async def resume(self, priority: Priority) -> bool:
        """Let jobs start again, whoever paused the priority and with whichever tool; return once they do.

        Shards that wait for older ones to drain, during a change of the shard count, are not started.

        Returns:
            Whether it was paused.

        Raises:
            JobError: `NotFound`, if the priority has no shards; `RunnerUnavailable`, if the server cannot be reached:
                some shards may still be paused then.
        """
        noted = await settled(lambda: self._note(priority, None))
        lifted = await self._lift(priority)
        return lifted or (noted is not None and noted > utc_now())

    async def _lift(self, priority: Priority) -> bool:
        """End the pauses of both lanes unless somebody pauses the priority anew; return whether there were any."""
        was_paused = False
        while True:
            live = await read_live(self._connection, self._names, priority)
            if live.operators_pause is not None:
                return was_paused
            if live.paused_until is not None:
                # It was found on shards that a change of the count just removed.
                await settled(lambda: self._note(priority, None))
            found = await self._consumers(priority)
            pauses = {place: until for place, info in found.items() if (until := info.paused_until) is not None}
            if not pauses:
                return was_paused
            was_paused = True
            lasting = [place for place, until in pauses.items() if until - found[place].ts > _SOON]
            await self._each(lasting, None)
            await asyncio.sleep(_POLL)

    async def _note(self, priority: Priority, until: datetime | None) -> datetime | None:
        """Write the end of the priority's pause into the list of generations; return the one written there before."""
        live = await read_live(self._connection, self._names, priority)
        if not live.generations:
            raise JobError.from_validation(live.problem) if live.problem else self._nothing(priority)
        noted = replace(live, operators_pause=until, paused_until=None if until is None else live.paused_until)
        if noted != live:
            # Somebody may be first: who changes the shard count, or pauses it too.
            await write_live(self._connection, self._names, priority, noted)
        return live.operators_pause or live.paused_until

    async def _consumers(self, priority: Priority) -> _Consumers:
        """Return the partitions, and the shards that run or have run: all but those of waiting generations."""
        shards, partitions = await asyncio.gather(
            live_shards(self._connection, self._names, (priority,)),
            live_partitions(self._connection, self._names, (priority,)),
        )
        found: _Consumers = {shard: info for shard, info in shards.items() if info.paused_until != FOR_GOOD}
        return found | dict[Shard | Partition, ConsumerInfo](partitions.items())

    async def _each(self, places: list[Shard | Partition], until: datetime | None) -> None:
        """Pause shards and partitions, or resume them; skip those that were removed meanwhile."""

        async def one(place: Shard | Partition) -> None:
            stream = self._names.queue(place.queue)
            try:
                if until is None:
                    await consumers.resume(self._connection, stream, place.consumer)
                else:
                    await pause_consumer(self._connection, stream, place.consumer, until)
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise

        await asyncio.gather(*(one(place) for place in places))

    async def _running(self, priority: Priority, found: _Consumers) -> tuple[str, ...]:
        """Return the ids of the jobs that run in the paused shards and partitions: the ordered ones first."""
        looks = [
            asyncio.ensure_future(self._begun(place, info)) for place, info in found.items() if isinstance(place, Shard)
        ]
        lane = asyncio.ensure_future(
            self._begun_in_lane(priority, [info for place, info in found.items() if isinstance(place, Partition)])
        )
        try:
            begun = await asyncio.gather(*looks)
            return (*(job_id for job_id in begun if job_id is not None), *await lane)
        finally:
            for look in (*looks, lane):
                look.cancel()  # once one has failed, the others need not go on

    async def _begun_in_lane(self, priority: Priority, partitions: list[ConsumerInfo]) -> list[str]:
        """Return the ids of the jobs that run in a paused lane, as their entries tell at this moment."""
        in_flight = sum(info.num_ack_pending for info in partitions)
        begun = list[str]()
        if not in_flight:
            return begun
        last = max(info.delivered.stream_seq for info in partitions)
        queue = Queue(priority, Lane.PARALLEL)
        async for _, job, found in delivered_jobs(self._connection, self._names, queue, until=last, most=_MOST_READ):
            if found is not None and found.problem is None:
                entry = None if found.entry is None else job.own(found.entry)
                if entry is not None and entry.status is Status.PROCESSING:
                    begun.append(entry.job_id)
            if len(begun) >= in_flight:
                break
        return begun

    async def _begun(self, shard: Shard, info: ConsumerInfo | None) -> str | None:
        """Return the id of the job that runs in a paused shard, once that is known; None if none does."""
        while info is not None and info.num_ack_pending:
            found = await self._found(shard.queue, info.delivered.stream_seq)
            if _is_over(info, info.last_active) or (found is not None and _is_told(info, found)):
                entry = found.entry if found else None
                return entry.job_id if entry is not None and entry.status is Status.PROCESSING else None
            await asyncio.sleep(_POLL)
            info = await find_consumer(self._connection, self._names.stream(shard.priority), shard.consumer)
        return None

    async def _found(self, queue: Queue, sequence: int) -> Found | None:
        try:
            job = await fetch_job(self._connection, self._names, queue, sequence)
            found = None if job is None else await self._state.read(job.job_id)
        except JobError as error:
            if error.is_transient:
                raise
            return None  # a stranger's message cannot be read, and tells nothing
        return None if found is None or found.problem is not None else found

    def _nothing(self, priority: Priority) -> JobError:
        return JobError.from_not_found(
            f"no shards of {priority} in namespace {self._names.namespace!r}: run `jsjobs streams apply`"
        )


def _is_paused(info: ConsumerInfo, until: datetime) -> bool:
    """Return whether a shard is paused until the given time, or that time is over."""
    return info.paused_until == until or info.ts >= until


def _is_told(info: ConsumerInfo, found: Found) -> bool:
    """Return whether an entry tells what became of a paused shard's last delivery.

    If it does not, a worker may begin the job at any moment. The server counts more than deliveries as activity:
    docs/server-quirks.md#what-counts-as-activity-of-a-consumer.
    """
    entry, active_at = found.entry, info.last_active
    if found.is_deleted:
        return False  # the worker that has the job begins it once the lease before is over
    if entry is None or entry.status.is_terminal or entry.snoozed_until is not None:
        return True  # before a worker starts a snoozed job, it checks whether its shard is paused
    if entry.status is Status.PROCESSING:
        # The next worker begins a redelivered job as soon as the lease of the worker before is over.
        return not info.num_redelivered or active_at <= found.stored_at or _is_over(info, found.stored_at)
    delay = timedelta()
    if entry.next_attempt_at is not None and entry.history:
        delay = entry.next_attempt_at - entry.history[-1].timestamp
    return entry.attempts > 0 and active_at < found.stored_at + delay


def _is_over(info: ConsumerInfo, since: datetime) -> bool:
    """Return whether no worker may begin a job any more that it was given by that time."""
    return info.ts - since > timedelta(microseconds=info.config.ack_wait / 1000) + _LATE
