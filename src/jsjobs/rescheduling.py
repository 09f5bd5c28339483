"""Moving delayed jobs: to another time, or to now. The schedule decides: what has fired is moved no more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime

from jsjobs.jetstream import wire
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.fired import fired_entries
from jsjobs.jetstream.ids import checked_id
from jsjobs.jetstream.schedule import SCHEDULE as PATTERN
from jsjobs.jetstream.schedule import Schedule, at_pattern
from jsjobs.jetstream.schedules import Schedules
from jsjobs.jetstream.settled import settled
from jsjobs.jetstream.state import Conflict, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import AlreadyDue, AlreadyEnded, JobError
from jsjobs.model.job import JobStatusResponse, Status, utc_now
from jsjobs.model.times import parse_rfc3339, rfc3339
from jsjobs.settings import Config

_LOOK_AGAIN = 0.02
"""Seconds after a lost race."""
_MORE_LOOKS = (0.05, 0.25)
"""Seconds before each further look for a schedule that is not found: a replica may lag behind."""


async def reschedule_job(
    connection: Connection, config: Config, job_id: str, due: datetime | None
) -> JobStatusResponse:
    """Move a delayed job; see `JobService.reschedule` and `JobService.run_now`.

    Args:
        connection: To the server.
        config: The settings.
        job_id: The job.
        due: When it is to begin; None: now.

    Raises:
        JobError: As there.
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
        text = f"others change the schedule of {self._job_id} all the time: try again"
        moving = settled(lambda: self._move(due), within=self._timeout, else_say=text, job_id=self._job_id)
        return await self._tell(await moving, due or utc_now())

    async def _move(self, due: datetime | None) -> Schedule:
        """Look at the schedule and move it; what it was."""
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
                f"{error.message}: {self._job_id} may or may not have been moved; doing it again is harmless",
                job_id=self._job_id,
            ) from error
        return schedule

    async def _schedule(self) -> Schedule:
        """The job's schedule.

        Raises:
            JobError: Why there is none.
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
            return JobError.from_not_found(f"no delayed job {job_id} is known", job_id=job_id)
        if entry.status is Status.CANCELLED:
            return JobError.from_already_cancelled(f"job {job_id} was cancelled", job_id=job_id)
        if entry.status.is_terminal:
            return AlreadyEnded(f"job {job_id} cannot be moved: it has ended, as {entry.status}", job_id=job_id)
        return AlreadyDue(f"job {job_id} cannot be moved: it is due already, and {entry.status}", job_id=job_id)

    async def _check(self, schedule: Schedule, due: datetime | None) -> None:
        known = await self._state.read(self._job_id)
        if known is not None and known.entry is not None and known.entry.status is Status.CANCELLED:
            raise self._why_not(known.entry)  # its schedule is being taken away
        expires = schedule.headers.get(wire.EXPIRES)
        with suppress(ValueError):  # one that cannot be read is told when the job runs
            if due is not None and expires is not None and parse_rfc3339(expires) <= due:
                raise JobError.from_validation(
                    f"job {self._job_id} expires at {expires}, before it would be due at {rfc3339(due)}",
                    job_id=self._job_id,
                )

    async def _tell(self, schedule: Schedule, due: datetime) -> JobStatusResponse:
        """Write the new time into the job's entry, unless it has begun; the entry."""
        while True:
            found = await self._state.read(self._job_id)
            entry = schedule.entry(self._names) if found is None or found.is_deleted else found.entry
            if entry is None or entry.carrier is not None or entry.status is not Status.QUEUED:
                if entry is None:
                    raise JobError.from_not_found(f"job {self._job_id} ended, and its result has expired")
                return entry
            moved = entry.model_copy(update={"scheduled_for": due})
            with suppress(Conflict):
                await self._state.write(moved, expected=found.revision if found else 0, within=self._timeout)
                return moved
            await asyncio.sleep(_LOOK_AGAIN)
