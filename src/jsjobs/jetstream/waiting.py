"""Jobs that no worker has begun yet, told by what waits of them: a message in a queue, or a schedule."""

from __future__ import annotations

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.incoming import fetch_waiting
from jsjobs.jetstream.schedules import Schedules
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
    return schedule.entry(names) if schedule is not None and schedule.is_live else None
