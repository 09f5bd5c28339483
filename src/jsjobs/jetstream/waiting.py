"""Jobs that no worker has begun yet, told by what waits of them: a message in a queue, or a schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.fired import fired_entries
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.incoming import fetch_waiting
from jsjobs.jetstream.schedule import Schedule, read_schedule
from jsjobs.jetstream.schedules import Schedules
from jsjobs.jetstream.stored import stored
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import JobStatusResponse


async def waiting_entry(connection: Connection, names: Names, job_id: str) -> JobStatusResponse | None:
    """What the entry of a job would say that has none yet; None if nothing of the job waits where its id tells.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the streams do not exist; `Validation`, if
            what waits cannot be read.
    """
    if parse_plain_id(job_id) is not None:
        job = await fetch_waiting(connection, names, job_id)
        return None if job is None else job.entry()
    schedule = await Schedules(connection, names).of_job(job_id)
    if schedule is not None:
        return schedule.entry(names) if schedule.is_live else None
    return (await fired_entries(connection, names, [job_id])).get(job_id)


async def delayed_schedules(connection: Connection, names: Names) -> AsyncIterator[Schedule]:
    """The schedules of all delayed jobs that are not due yet.

    Raises:
        JobError: As `Schedules.find`.
    """
    async for message in stored(connection, names.schedule_stream, names.schedule(">").decode()):
        schedule = read_schedule(message)
        if schedule.is_live and schedule.due is not None:
            yield schedule
