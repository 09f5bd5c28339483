"""What replaces a schedule while the server fires it is not lost without a word."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.schedule import delayed, read_schedule
from jsjobs.jetstream.schedules.store import ScheduleChanged, Schedules

CROWD = 4000


@pytest.mark.long
async def test_many_are_replaced_while_the_server_fires_a_crowd(jobs: JobService) -> None:
    """Those of a crowd that come last are replaced when the server has read them, and fires the first ones."""
    names = Names(jobs.config.namespace)
    schedules = Schedules(jobs.connection, names)
    due = datetime.now(UTC) + timedelta(seconds=20)
    ids = await jobs.submit("crowd", list(range(CROWD)), at=due, priority="low")
    found = [await schedules.of_job(job_id) for job_id in ids[-300:]]
    later = delayed(names, f"{names.namespace}.low.e.crowd".encode(), {}, datetime.now(UTC) + timedelta(hours=1))
    outcomes = {}

    async def replace(number: int) -> None:
        old = found[number]
        assert old is not None
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + number * 0.002)
        try:
            await schedules.replace(old, {**old.own_headers, **later}, b'"new"')
        except ScheduleChanged:
            outcomes[old.job_id] = False
        else:
            outcomes[old.job_id] = True

    assert datetime.now(UTC) < due, "the machine is too slow for this delay"
    await asyncio.gather(*(replace(number) for number in range(300)))
    standing = set()
    async for message in stored(jobs.connection, names.schedule_stream, names.schedule(">").decode()):
        standing.add(read_schedule(message).job_id)
    await eventually(lambda: fired(jobs, names, CROWD - sum(outcomes.values())))
    assert {job_id for job_id, was_replaced in outcomes.items() if was_replaced} == standing


async def fired(jobs: JobService, names: Names, count: int) -> bool:
    seen = 0
    async for _ in stored(jobs.connection, names.schedule_stream, f"{names.namespace}.due.>"):
        seen += 1
        if seen >= count:
            return True
    return False
