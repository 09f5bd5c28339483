"""Add, list, pause and run periodic schedules, for people and programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from pydantic import ValidationError

from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.firing import is_schedule_name
from jsjobs.jetstream.protocol.headers import REQUEST_ID
from jsjobs.jetstream.protocol.names import Names, checked_type
from jsjobs.jetstream.schedules.periodic import Definition, Periodic, define, definition_of, is_paused, is_there
from jsjobs.jetstream.schedules.schedule import Schedule
from jsjobs.model.checks import checked_text, problems
from jsjobs.model.errors import AnotherSchedule, JobError
from jsjobs.model.job import Duration, DurationName, JobId, Priority, PriorityName, utc_now
from jsjobs.model.payload import JobPayload
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.timetable import Timetable
from jsjobs.operations.compose import Composer
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.scheduling")

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds to wait, at most, while others keep changing the same schedule."""


class PeriodicOptions(TypedDict, total=False):
    """The options for queueing and running a schedule's jobs; all are optional, and the same as for `submit`."""

    priority: Priority | PriorityName
    entity: str | None
    tenant: str | None
    max_attempts: int | None
    duration: Duration | DurationName | None
    timeout: float | None


def timetable_of(cron: str | None, every: float | timedelta | None, zone: str | None) -> Timetable:
    """Return the timetable that either `cron` or `every` gives.

    Raises:
        JobError: `Validation`, if not exactly one of them is given, or it is no timetable.
    """
    if (cron is None) == (every is None):
        raise JobError.from_validation("give either cron, such as '0 9 * * 1-5', or every, an interval")
    if cron is not None:
        return Timetable.cron(cron, zone=zone)
    if zone is not None:
        raise JobError.from_validation("a time zone goes with a cron: an interval is the same everywhere")
    return Timetable.every(every)  # type: ignore[arg-type]


def compose_definition(
    names: Names,
    composer: Composer,
    name: str,
    timetable: Timetable,
    form: JobPayload,
    *,
    owner: str | None = None,
) -> Definition:
    """Compose the definition of a schedule.

    Args:
        names: The namespace.
        composer: Composes its jobs' message.
        name: The schedule's name.
        timetable: When it fires.
        form: The job that it submits.
        owner: The application whose code declares it.

    Raises:
        JobError: `Validation`, if something given cannot be used.
    """
    checked_schedule_name(name)
    job = composer.compose(form, form.payload).job
    # Each firing is a request of its own.
    headers = {header: value for header, value in job.headers.items() if header != REQUEST_ID}
    return define(names, name, timetable, replace(job, headers=headers), owner=owner)


def checked_schedule_name(name: object) -> str:
    """Return the name, if a schedule can have it.

    Raises:
        JobError: `Validation`, saying what a name looks like, if it cannot.
    """
    text = checked_text("a schedule's name", name)
    if not is_schedule_name(text):
        raise JobError.from_validation(
            f"a schedule's name must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-', not {text[:80]!r}"
        )
    return text


def schedule_form(job_type: str, payload: Any, options: PeriodicOptions) -> JobPayload:
    """Return the job that a schedule submits.

    Raises:
        JobError: `Validation`, if something given cannot be used.
    """
    checked_type(job_type)
    if unknown := set(options) - set(PeriodicOptions.__annotations__):
        raise JobError.from_validation(f"a schedule takes no {', '.join(sorted(unknown))}")
    try:
        return JobPayload.model_validate({**options, "type": job_type, "payload": payload})
    except ValidationError as error:
        raise JobError.from_validation(f"the schedule is invalid: {problems(error)}", cause=error) from None


class Scheduler:
    """The periodic schedules of a namespace: `JobService.schedules`."""

    def __init__(self, periodic: Periodic, queue: JobQueue, composer: Composer, names: Names) -> None:
        self._periodic = periodic
        self._queue = queue
        self._composer = composer
        self._names = names

    async def add(
        self,
        name: str,
        job_type: str,
        payload: Any = None,
        *,
        cron: str | None = None,
        every: float | timedelta | None = None,
        zone: str | None = None,
        replace: bool = False,
        **options: Unpack[PeriodicOptions],
    ) -> ScheduleStatus:
        """Add a schedule that submits a job again and again, from now on.

        Adding the same schedule once more changes nothing.

        Args:
            name: The schedule's name, 1 to 64 of A-Z, a-z, 0-9, `_` and `-`.
            job_type: The type of its jobs.
            payload: The payload of each job.
            cron: Five fields as in a crontab, six with seconds in front, or a macro such as `@daily`.
            every: Whole seconds between two jobs, or a timedelta, instead of `cron`.
            zone: The IANA time zone of `cron`; UTC if not given.
            replace: Whether it replaces another schedule of the same name; if that is paused, this one is too.
            **options: See `PeriodicOptions`: priority, entity, tenant, max_attempts, duration, timeout.

        Returns:
            The schedule, with its next five times.

        Raises:
            AnotherSchedule: If another schedule has that name.
            JobError: `Validation`, if something given cannot be used; `RunnerUnavailable`.
        """
        timetable, form = timetable_of(cron, every, zone), schedule_form(job_type, payload, options)
        wanted = compose_definition(self._names, self._composer, name, timetable, form)

        async def put() -> Schedule:
            found = await self._periodic.find(name)
            if found is None or not is_there(found):
                return await self._periodic.store(wanted, expected=found.sequence if found else 0)
            if definition_of(found) == wanted:
                return found
            if not replace:
                raise AnotherSchedule(name)
            return await self._periodic.store(wanted, expected=found.sequence, paused=is_paused(found))

        return self._status(await _settled(put))

    async def list(self) -> list[ScheduleStatus]:
        """Return all schedules, sorted by name; log and leave out a stranger's that cannot be read.

        Raises:
            JobError: `RunnerUnavailable`.
        """
        found = []
        async for schedule in self._periodic.all():
            try:
                found.append(self._status(schedule))
            except JobError as error:
                logger.warning("the schedule on %r cannot be read: %s", schedule.subject, error.message)
        return sorted(found, key=lambda status: status.name)

    async def show(self, name: str) -> ScheduleStatus:
        """Return one schedule.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return self._status(await self._found(name))

    async def remove(self, name: str) -> str | None:
        """Remove a schedule; jobs that it has submitted stay.

        A schedule that code declares comes back when a worker starts.

        Returns:
            The application whose code declares it; None if none does.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """

        async def take() -> str | None:
            found = await self._found(name)
            await self._periodic.remove(found)
            return definition_of(found).owner

        return await _settled(take)

    async def pause(self, name: str) -> ScheduleStatus:
        """Pause a schedule: it submits no job until it is resumed, even if workers start or the code changes.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> ScheduleStatus:
        """Resume a schedule. Jobs that were due meanwhile are not submitted, and an interval starts anew.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return await self._set_paused(name, paused=False)

    async def run(self, name: str) -> JobId:
        """Submit the schedule's job now, paused or not; its times stay as they are.

        Raises:
            JobError: `NotFound`; otherwise see `submit`.
        """
        return await self._queue.publish(self._periodic.job(await self._found(name)))

    async def _set_paused(self, name: str, *, paused: bool) -> ScheduleStatus:
        async def change() -> Schedule:
            found = await self._found(name)
            if is_paused(found) == paused:
                return found
            return await self._periodic.store(definition_of(found), expected=found.sequence, paused=paused)

        return self._status(await _settled(change))

    async def _found(self, name: str) -> Schedule:
        found = await self._periodic.find(checked_schedule_name(name))
        if found is None or not is_there(found):
            raise JobError.from_not_found(f"there is no schedule {name!r}")
        return found

    def _status(self, schedule: Schedule) -> ScheduleStatus:
        return self._periodic.status(schedule, utc_now())


async def _settled(change: Callable[[], Awaitable[T]]) -> T:
    return await settled(change, within=_PATIENCE, else_say="others keep changing the schedule: try again")
