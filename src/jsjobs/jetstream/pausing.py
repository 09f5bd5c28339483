"""Pausing a priority and resuming it: while it is paused no further job of it starts.

The pause is written into the priority's list of generations first, then set on its shards: shards that begin later,
by a change of their count or because one was lost and made again, take it over from there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from jsjobs.jetstream import shard_consumers
from jsjobs.jetstream.api import CONSUMER_NOT_FOUND, ApiError, find, parse_time, server_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generation_consumers import Infos
from jsjobs.jetstream.generations import live_shards, read_live, write_live
from jsjobs.jetstream.incoming import fetch_job
from jsjobs.jetstream.shard_consumers import FOR_GOOD, UNTIL_RESUMED, paused_until
from jsjobs.jetstream.state import Conflict, Found, StateStore
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, Status, utc_now

MAX_SECONDS = 10 * 365 * 86_400
"""Ten years: the longest pause that has an end."""
_POLL = 0.05
"""Seconds between two looks at what is not decided yet."""
_SOON = timedelta(seconds=5)
"""A pause that ends within this was lifted: resuming a shard means ending its pause in a moment."""
_LATE = timedelta(seconds=1)
"""How long after the end of its lease a worker may still begin a job that it was given before the pause."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A priority that is paused."""

    priority: Priority
    until: datetime | None
    """When the pause ends; None: when somebody resumes it."""
    running: tuple[str, ...]
    """Ids of the jobs that had begun before and go on, as far as their entries tell."""


class Pausing:
    """Pauses and resumes the priorities of one namespace; both may be repeated, by anybody."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._state = StateStore(connection, names)

    async def pause(self, priority: Priority, seconds: float | None = None) -> Paused:
        """Let no further job start, first attempts and repeated ones alike; what runs goes on, and ends as always.

        Returns once it is known of every job that was delivered before whether it runs: at once, as a rule; after
        `ack_wait` where its worker died a moment ago. Said again it sets another end; of two who say so at once, both
        return the end of the one who was last.

        Args:
            priority: Which.
            seconds: For how long; None: until it is resumed.

        Raises:
            JobError: `Validation`, if the time is none, or above ten years; `NotFound`, if the priority has no shards;
                `RunnerUnavailable`, if the server cannot be reached: some shards may be paused then; also if somebody
                resumed it meanwhile.
        """
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:  # as NaN is not
            text = f"a pause lasts more than 0 seconds and ten years at most, not {str(seconds)[:40]}"
            raise JobError.from_validation(text)
        queue = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
        if queue is None:
            raise self._nothing(priority)
        until = UNTIL_RESUMED if seconds is None else server_time(queue) + timedelta(seconds=seconds)
        await self._note(priority, until)
        while True:
            # What is noted counts: somebody else may have decided otherwise by now.
            noted = (await read_live(self._connection, self._names, priority)).operators_pause
            if noted is None:
                await self._lift(priority)
                raise JobError.from_runner_unavailable(f"{priority} was resumed by somebody else meanwhile")
            shards = await self._shards(priority)
            running = [shard for shard, info in shards.items() if not _is_paused(info, noted)]
            if not running:
                break
            await self._each(running, noted)
        looks = [asyncio.ensure_future(self._begun(shard, info)) for shard, info in shards.items()]
        try:
            begun = await asyncio.gather(*looks)
        finally:
            for look in looks:
                look.cancel()  # where one failed the others need not wait on
        jobs = tuple(job_id for job_id in begun if job_id is not None)
        return Paused(priority, None if noted == UNTIL_RESUMED else noted, jobs)

    async def resume(self, priority: Priority) -> bool:
        """Let jobs start again, whoever paused the priority and by whichever tool; returns once they do.

        Shards that wait for older ones to be drained, in a change of the shard count, are not its to start.

        Returns:
            Whether it was paused.

        Raises:
            JobError: `NotFound`, if the priority has no shards; `RunnerUnavailable`, if the server cannot be reached:
                some shards may still be paused then.
        """
        noted = await self._note(priority, None)
        lifted = await self._lift(priority)
        return lifted or (noted is not None and noted > utc_now())

    async def _lift(self, priority: Priority) -> bool:
        """End the pauses of all shards, unless somebody pauses the priority anew; whether there were any."""
        was_paused = False
        while True:
            live = await read_live(self._connection, self._names, priority)
            if live.operators_pause is not None:
                return was_paused
            if live.paused_until is not None:
                await self._note(priority, None)  # found on shards that a change of their count has just removed
            shards = await self._shards(priority)
            pauses = {shard: until for shard, info in shards.items() if (until := paused_until(info)) is not None}
            if not pauses:
                return was_paused
            was_paused = True
            lasting = [shard for shard, until in pauses.items() if until - server_time(shards[shard]) > _SOON]
            await self._each(lasting, None)
            await asyncio.sleep(_POLL)

    async def _note(self, priority: Priority, until: datetime | None) -> datetime | None:
        """Write into the list of generations until when the priority is paused; what was written there before."""
        while True:
            live = await read_live(self._connection, self._names, priority)
            if not live.generations:
                raise JobError.from_validation(live.problem) if live.problem else self._nothing(priority)
            noted = replace(live, operators_pause=until, paused_until=None if until is None else live.paused_until)
            before = live.operators_pause or live.paused_until
            if noted == live:
                return before
            try:
                await write_live(self._connection, self._names, priority, noted)
            except Conflict:
                continue  # the shard count is being changed, or somebody else pauses it too
            return before

    async def _shards(self, priority: Priority) -> Infos:
        """The shards whose turn it is, or was."""
        shards = await live_shards(self._connection, self._names, (priority,))
        return {shard: info for shard, info in shards.items() if paused_until(info) != FOR_GOOD}

    async def _each(self, shards: list[Shard], until: datetime | None) -> None:
        """Pause shards, or resume them; one that was removed meanwhile is no longer there to be."""
        stream = self._names.stream(shards[0].priority) if shards else ""

        async def one(shard: Shard) -> None:
            try:
                if until is None:
                    await shard_consumers.resume(self._connection, stream, shard.consumer)
                else:
                    await shard_consumers.pause(self._connection, stream, shard.consumer, until)
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise

        await asyncio.gather(*(one(shard) for shard in shards))

    async def _begun(self, shard: Shard, info: dict[str, Any] | None) -> str | None:
        """The job that runs in a paused shard, once that is known."""
        while info is not None and info["num_ack_pending"]:
            found = await self._found(shard.priority, info["delivered"]["stream_seq"])
            if _is_over(info, _active_at(info)) or (found is not None and _is_told(info, found)):
                entry = found.entry if found else None
                return entry.job_id if entry is not None and entry.status is Status.PROCESSING else None
            await asyncio.sleep(_POLL)
            endpoint = f"CONSUMER.INFO.{self._names.stream(shard.priority)}.{shard.consumer}"
            info = await find(self._connection, endpoint)
        return None

    async def _found(self, priority: Priority, sequence: int) -> Found | None:
        try:
            job = await fetch_job(self._connection, self._names, priority, sequence)
            found = None if job is None else await self._state.read(job.job_id)
        except JobError as error:
            if error.is_transient:
                raise
            return None  # what a stranger wrote cannot be read, and tells nothing
        return None if found is None or found.problem is not None else found

    def _nothing(self, priority: Priority) -> JobError:
        return JobError.from_not_found(
            f"no shards of {priority} in namespace {self._names.namespace!r}: run `jsjobs streams apply`"
        )


def _is_paused(info: dict[str, Any], until: datetime) -> bool:
    """Whether a shard is paused until then, or that is over by now."""
    return paused_until(info) == until or server_time(info) >= until


def _is_told(info: dict[str, Any], found: Found) -> bool:
    """Whether an entry tells what became of a paused shard's last delivery; else a worker may begin the job any moment.

    The server counts as activity a delivery, but also a worker's sign of life, and a failed attempt given back with a
    delay (nats-server 2.15.1, measured).
    """
    entry, active_at = found.entry, _active_at(info)
    if found.is_deleted:
        return False  # whoever has the job begins it once the lease of who ran it is over
    if entry is None or entry.status.is_terminal or entry.snoozed_until is not None:
        return True  # who starts a job that snoozed looks first whether its shard is paused
    if entry.status is Status.PROCESSING:
        # A job delivered again is begun by the next worker as soon as the lease of the one before is over.
        return not info["num_redelivered"] or active_at <= found.stored_at or _is_over(info, found.stored_at)
    delay = timedelta()
    if entry.next_attempt_at is not None and entry.history:
        delay = entry.next_attempt_at - entry.history[-1].timestamp
    return entry.attempts > 0 and active_at < found.stored_at + delay


def _is_over(info: dict[str, Any], since: datetime) -> bool:
    """Whether nobody may begin a job any more that was in a worker's hands at that time."""
    return server_time(info) - since > timedelta(microseconds=info["config"]["ack_wait"] / 1000) + _LATE


def _active_at(info: dict[str, Any]) -> datetime:
    return parse_time(info["delivered"]["last_active"])
