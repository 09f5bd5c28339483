"""Move delayed jobs to another time, or to now; wake jobs of the parallel lane that sleep.

For a delayed job the schedule decides: once it has fired, the job cannot be moved. A job that sleeps, because it backs
off or its handler snoozed, is woken in two steps, each of which may be repeated: its entry says that it is due, then
the server is asked to deliver its message.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import datetime

from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.headers import EXPIRES
from jsjobs.jetstream.protocol.job_ids import checked_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.fired import fired_entries
from jsjobs.jetstream.schedules.schedule import SCHEDULE as PATTERN
from jsjobs.jetstream.schedules.schedule import Schedule, at_pattern
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.errors import AlreadyDue, AlreadyEnded, JobError
from jsjobs.model.job import JobStatusResponse, Status, utc_now
from jsjobs.model.times import parse_rfc3339, rfc3339
from jsjobs.settings import Config

_ACK_SUBJECT = re.compile(r"\$JS\.ACK(\.[^\s.*>]+){7,9}")
_MORE_LOOKS = (0.05, 0.25)
"""Seconds before each further read of a schedule that is not found: a replica may lag behind."""


async def reschedule_job(
    connection: Connection, config: Config, job_id: str, due: datetime | None
) -> JobStatusResponse:
    """Move a delayed job, or wake one that sleeps; see `JobService.reschedule` and `JobService.run_now`.

    Args:
        connection: The connection to the server.
        config: The settings.
        job_id: The job.
        due: When it is to begin; None for now.

    Raises:
        JobError: See there.
    """
    return await _Rescheduling(connection, config, checked_id(job_id)).run(due)


class _Rescheduling:
    def __init__(self, connection: Connection, config: Config, job_id: str) -> None:
        names = Names(config.namespace)
        self._names = names
        self._job_id = job_id
        self._timeout = config.timeout
        self._schedules = Schedules(connection, names, timeout=config.timeout)
        self._state = StateStore(connection, names)
        self._connection = connection

    async def run(self, due: datetime | None) -> JobStatusResponse:
        if due is None:
            text = f"others keep changing the entry of {self._job_id}: try again"
            woken = await settled(self._wake, within=self._timeout, else_say=text, job_id=self._job_id)
            if woken is not None:
                return woken
        text = f"others keep changing the schedule of {self._job_id}: try again"
        moving = settled(lambda: self._move(due), within=self._timeout, else_say=text, job_id=self._job_id)
        schedule, moved_to = await moving, due or utc_now()
        return await settled(lambda: self._tell(schedule, moved_to))

    async def _wake(self) -> JobStatusResponse | None:
        """Let a job that sleeps in the parallel lane begin its next attempt; return its entry, or None if none sleeps.

        A wake that comes too late, or twice, makes one more delivery, which finds the entry and does no harm.

        Raises:
            Conflict: If somebody else wrote the entry first.
            JobError: `RunnerUnavailable`, if the server cannot be asked to deliver it: trying again is harmless.
        """
        found = await self._state.read(self._job_id)
        entry = None if found is None else found.entry
        if found is None or entry is None or entry.status is not Status.QUEUED:
            return None
        if entry.wake is None or not _ACK_SUBJECT.fullmatch(entry.wake):  # an entry may be anything
            return None
        woken = entry.woken()
        if woken != entry:  # otherwise somebody was here before, and may have died before the next step
            await self._state.write(woken, expected=found.revision, within=self._timeout)
        try:
            await self._connection.ask(entry.wake.encode(), b"-NAK", timeout=self._timeout)
        except ConnectionLost as error:
            raise JobError.from_runner_unavailable(
                f"{error.message}: {self._job_id} may or may not have been woken; trying again is harmless",
                job_id=self._job_id,
            ) from error
        return woken

    async def _move(self, due: datetime | None) -> Schedule:
        """Read the schedule and move it; return the schedule as it was before.

        Raises:
            ScheduleChanged: If it fired, or somebody else changed it, first.
            JobError: See `JobService.reschedule`.
        """
        schedule = await self._schedule()
        await self._check(schedule, due)
        try:
            if due is None:
                await self._schedules.fire(schedule)
            else:
                headers = {**schedule.own_headers, **schedule.timing, PATTERN: at_pattern(due)}
                await self._schedules.replace(schedule, headers, schedule.data)
        except ConnectionLost as error:
            raise JobError.from_runner_unavailable(
                f"{error.message}: {self._job_id} may or may not have been moved; trying again is harmless",
                job_id=self._job_id,
            ) from error
        return schedule

    async def _schedule(self) -> Schedule:
        """Return the job's schedule.

        Raises:
            JobError: If it has none, saying why.
        """
        more_looks = list(_MORE_LOOKS)
        while True:
            found = await self._schedules.of_job(self._job_id)
            if found is not None and found.is_live:
                return found
            known = await self._state.read(self._job_id)
            entry = None if known is None else known.entry
            # A job that seems to wait unscheduled has fired, or its schedule is not on this replica yet.
            is_decided = found is not None or known is None or entry is None or entry.status is not Status.QUEUED
            if is_decided or not more_looks:
                if found is None and known is None:
                    entry = (await fired_entries(self._connection, self._names, [self._job_id])).get(self._job_id)
                raise self._why_not(entry)
            await asyncio.sleep(more_looks.pop(0))

    def _why_not(self, entry: JobStatusResponse | None) -> JobError:
        job_id = self._job_id
        if entry is None:
            return JobError.from_not_found(f"delayed job {job_id} is not known", job_id=job_id)
        if entry.status is Status.CANCELLED:
            return JobError.from_already_cancelled(f"job {job_id} was cancelled", job_id=job_id)
        if entry.status.is_terminal:
            return AlreadyEnded(f"job {job_id} cannot be moved: it has ended, as {entry.status}", job_id=job_id)
        if entry.status is Status.QUEUED and entry.history and entry.history[-1].attempt:
            text = f"job {job_id} cannot be moved: it was due already, and waits for its next attempt"
            if entry.wake is None:
                text += "; a job of an entity waits it out, since the entity's other jobs must stay behind it"
            return AlreadyDue(text, job_id=job_id)
        return AlreadyDue(f"job {job_id} cannot be moved: it is due already, and {entry.status}", job_id=job_id)

    async def _check(self, schedule: Schedule, due: datetime | None) -> None:
        known = await self._state.read(self._job_id)
        if known is not None and known.entry is not None and known.entry.status is Status.CANCELLED:
            raise self._why_not(known.entry)  # its schedule is being removed
        expires = schedule.headers.get(EXPIRES)
        with suppress(ValueError):  # an unreadable time is reported when the job runs
            if due is not None and expires is not None and parse_rfc3339(expires) <= due:
                raise JobError.from_validation(
                    f"job {self._job_id} expires at {expires}, before it would be due at {rfc3339(due)}",
                    job_id=self._job_id,
                )

    async def _tell(self, schedule: Schedule, due: datetime) -> JobStatusResponse:
        """Write the new time into the job's entry, unless the job has begun; return the entry.

        Raises:
            Conflict: If somebody else wrote the entry first.
            JobError: `NotFound`, if its result has expired.
        """
        found = await self._state.read(self._job_id)
        entry = schedule.entry(self._names) if found is None or found.is_deleted else found.entry
        if entry is None:
            raise JobError.from_not_found(f"job {self._job_id} ended, and its result has expired")
        if entry.carrier is not None or entry.status is not Status.QUEUED:
            return entry
        moved = entry.model_copy(update={"scheduled_for": due})
        await self._state.write(moved, expected=found.revision if found else 0, within=self._timeout)
        return moved
