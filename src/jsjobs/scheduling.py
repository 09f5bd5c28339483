"""Periodic schedules: added, listed, paused and run by people and programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from pydantic import ValidationError

from jsjobs.composing import Composer
from jsjobs.jetstream import wire
from jsjobs.jetstream.firing import is_schedule_name
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.periodic import Definition, Periodic, define, definition_of, is_paused, is_there
from jsjobs.jetstream.queue import JobQueue
from jsjobs.jetstream.schedule import Schedule
from jsjobs.jetstream.settled import settled
from jsjobs.jetstream.subjects import Names, checked_type
from jsjobs.model.checks import checked_text, problems
from jsjobs.model.errors import AnotherSchedule, JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import Duration, DurationName, Priority, PriorityName, utc_now
from jsjobs.model.payload import JobPayload
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.timetable import Timetable
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.scheduling")

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds in which others must come to an end with changing the same schedule."""


class PeriodicOptions(TypedDict, total=False):
    """How the jobs of a schedule are queued and run; all of it optional, and as `submit` takes it."""

    priority: Priority | PriorityName
    entity: str | None
    tenant: str | None
    max_attempts: int | None
    duration: Duration | DurationName | None
    timeout: float | None


def timetable_of(cron: str | None, every: float | timedelta | None, zone: str | None) -> Timetable:
    """The timetable that one of two arguments names.

    Raises:
        JobError: `Validation`, if it is not exactly one, or it cannot be one.
    """
    if (cron is None) == (every is None):
        raise JobError.from_validation("say when: either cron, such as '0 9 * * 1-5', or every, an interval")
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
    """The definition of a schedule.

    Args:
        names: The namespace.
        composer: Makes its jobs' message.
        name: The schedule's.
        timetable: When it fires.
        form: What it submits.
        owner: The application whose code declares it.

    Raises:
        JobError: `Validation`, if something given cannot be used.
    """
    checked_schedule_name(name)
    job = composer.compose(form, form.payload).job
    # Each firing is a request of its own; and its jobs go to one shard, whoever composes this.
    headers = {header: value for header, value in job.headers.items() if header != wire.REQUEST_ID}
    subject = job.subject if form.entity else names.submit(form.priority, f"_{name}", form.type).encode()
    return define(names, name, timetable, Outgoing(subject, job.data, headers), owner=owner)


def checked_schedule_name(name: object) -> str:
    """The name itself, if a schedule can have it.

    Raises:
        JobError: `Validation`, saying what a name looks like.
    """
    text = checked_text("a schedule's name", name)
    if not is_schedule_name(text):
        raise JobError.from_validation(
            f"a schedule's name must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-', not {text[:80]!r}"
        )
    return text


def schedule_form(job_type: str, payload: Any, options: PeriodicOptions) -> JobPayload:
    """What a schedule submits.

    Raises:
        JobError: `Validation`, if something given cannot be used.
    """
    checked_type(job_type)
    if unknown := set(options) - set(PeriodicOptions.__annotations__):
        raise JobError.from_validation(f"a schedule takes no {', '.join(sorted(unknown))}")
    try:
        return JobPayload.model_validate({**options, "type": job_type, "payload": payload})
    except ValidationError as error:
        raise JobError.from_validation(f"the schedule cannot be used: {problems(error)}", cause=error) from None


class Scheduler:
    """The periodic schedules of a namespace: `JobService.schedules()`."""

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
        """Submit a job again and again, from now on; adding the same schedule once more changes nothing.

        Args:
            name: The schedule's, 1 to 64 of A-Z, a-z, 0-9, `_` and `-`.
            job_type: What it submits.
            payload: Of each job.
            cron: Five fields as in a crontab, six with seconds in front, or a macro such as `@daily`.
            every: Whole seconds between two jobs, or a timedelta, in the place of a cron.
            zone: The IANA time zone of a cron; UTC if not given.
            replace: Whether another schedule of the same name gives way; if that is paused, this one is too.
            **options: See `PeriodicOptions`: priority, entity, tenant, max_attempts, duration, timeout.

        Returns:
            The schedule, with its next five times.

        Raises:
            AnotherSchedule: If the name is another one's.
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
        """All schedules, by name; one that a stranger made and that cannot be read is logged and left out.

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
        """One schedule.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return self._status(await self._found(name))

    async def remove(self, name: str) -> str | None:
        """Take a schedule away; jobs that it has submitted stay. One that code declares comes back at a worker's start.

        Returns:
            The application whose code declares it, if one does.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """

        async def take() -> str | None:
            found = await self._found(name)
            await self._periodic.remove(found)
            return definition_of(found).owner

        return await _settled(take)

    async def pause(self, name: str) -> ScheduleStatus:
        """Submit no further job, until it is resumed; a worker's start, and its code, leave the pause as it is.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> ScheduleStatus:
        """Submit jobs again; what was due meanwhile is not made up for, and an interval begins anew.

        Raises:
            JobError: `NotFound`; `RunnerUnavailable`.
        """
        return await self._set_paused(name, paused=False)

    async def run(self, name: str) -> JobId:
        """Submit the schedule's job now, paused or not; its times stay as they are.

        Raises:
            JobError: `NotFound`; else as `submit`.
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
    return await settled(change, within=_PATIENCE, else_say="others change the schedule all the time: try again")
