"""Point schedules of jobs without an entity to the parallel lanes, if they stand from before there were any.

In the place of an entity such a job had `_` and a hexadecimal number, which spread jobs over the shards; the jobs of a
periodic schedule had `_` and its name.
"""

from __future__ import annotations

import re

from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders
from jsjobs.jetstream.protocol.headers import read_job_headers
from jsjobs.jetstream.protocol.names import NO_KEY, Names, name_token
from jsjobs.jetstream.schedules.periodic import Periodic, definition_of, is_paused, is_there
from jsjobs.jetstream.schedules.schedule import SCHEDULE, TARGET, Schedule, read_schedule
from jsjobs.jetstream.schedules.store import ScheduleChanged, Schedules
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.scheduling")
_PLACE = re.compile(rf"due\.({'|'.join(Priority)})\._([A-Za-z0-9_-]+)\.(.+)")
_NUMBER = re.compile(r"[0-9a-f]{1,8}")


async def move_to_lanes(connection: Connection, names: Names) -> int:
    """Give the schedules of jobs without an entity their target in a parallel lane; do nothing the second time.

    A schedule that fires meanwhile, or is changed by somebody else, stays as it is. One that repeats in an interval
    counts from now on.

    Args:
        connection: A connection to the server.
        names: The namespace.

    Returns:
        How many were changed.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached; `NotPermitted`, if this user may not do that.
    """
    moved = 0
    try:
        async for message in stored(connection, names.schedule_stream, f"{names.namespace}.at.>"):
            try:
                schedule = read_schedule(message)
                target = _target(names, schedule)
            except JobError as error:
                logger.debug("the schedule on %r stays as it is: %s", message.subject, error.message)
                continue
            if target is not None:
                moved += await _move(connection, names, schedule, target)
    except NoResponders:
        return 0  # there are no schedules yet
    return moved


def _target(names: Names, schedule: Schedule) -> str | None:
    """Return where a schedule's job should go instead; None if it may stay.

    Raises:
        JobError: `Validation`, if its headers cannot be read, or no queue takes jobs from its target.
    """
    # What is stored on a stranger's subject such as `*` would replace all that it matches.
    if not is_there(schedule) or set(schedule.subject) & set(b"*>"):
        return None
    old = schedule.headers.get(TARGET, "")
    place = _PLACE.fullmatch(old.removeprefix(f"{names.namespace}."))
    job = read_job_headers(tuple(schedule.own_headers.items()))
    if place is None or job.entity is not None:
        return None
    if not (_NUMBER.fullmatch(place[2]) or schedule.subject == names.periodic(place[2])):
        return None
    names.queue_of_due(old.encode())  # a stranger may name any subject, and we have rights that it has not
    key = NO_KEY if job.tenant is None else name_token(job.tenant, "the tenant")
    return names.due(names.submit_parallel(Priority(place[1]), key, place[3]).encode()).decode()


async def _move(connection: Connection, names: Names, schedule: Schedule, target: str) -> bool:
    schedules, periodic = Schedules(connection, names), Periodic(connection, names)
    try:
        if schedule.subject.startswith(names.periodic("")):
            old = definition_of(schedule)
            new = old._replace(headers={**old.headers, TARGET: target})
            await periodic.store(new, expected=schedule.sequence, paused=is_paused(schedule))
        elif SCHEDULE in schedule.headers:
            headers = {**schedule.own_headers, **schedule.timing, TARGET: target}
            await schedules.replace(schedule, headers, schedule.data)
    except ScheduleChanged:
        return False
    return True
