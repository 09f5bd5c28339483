"""Schedules of jobs without an entity that stand from before there were parallel lanes are moved there, once."""

from datetime import timedelta

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.lane_targets import move_to_lanes
from jsjobs.jetstream.schedules.schedule import TARGET, Schedule
from jsjobs.jetstream.schedules.store import Schedules


async def make_old(connection: Connection, names: Names, subject: bytes, job_type: str = "note") -> Schedule:
    """Point a schedule to a shard, as versions without parallel lanes did."""
    schedules = Schedules(connection, names)
    found = await schedules.find(subject)
    assert found is not None
    name = subject.decode().removeprefix(names.periodic("").decode())
    token = f"1f{found.sequence % 256:x}" if name == subject.decode() else name
    headers = {**found.headers, TARGET: f"{names.namespace}.due.high._{token}.{job_type}"}
    await schedules.store(subject, headers, found.data, expected=found.sequence)
    old = await schedules.find(subject)
    assert old is not None
    return old


async def target_of(connection: Connection, names: Names, subject: bytes) -> str:
    found = await Schedules(connection, names).find(subject)
    assert found is not None
    return found.headers[TARGET].removeprefix(f"{names.namespace}.")


async def test_delayed_and_periodic_jobs_are_moved_and_run_in_the_lane(
    jobs: JobService, connection: Connection
) -> None:
    lanes: dict[int, str] = {}

    @jobs.handler("note.it")
    async def note(number: int, ctx: JobService.Context) -> None:
        lanes[number] = ctx.lane

    names = Names(jobs.config.namespace)
    soon = await jobs.submit("note.it", 1, priority="high", delay=4)
    with jobs.request_context(tenant_id="acme.org"):
        later = await jobs.submit("note.it", 2, priority="high", delay=3600)
    own = await jobs.submit("note.it", 3, priority="high", delay=3600, entity="_1f")
    await jobs.schedules.add("beat", "note.it", 4, every=1, priority="high")
    await jobs.schedules.add("rest", "note.it", 5, cron="0 4 * * *", priority="high")
    await jobs.schedules.pause("rest")
    before = {}
    for subject in (*map(names.schedule, (soon, later)), *map(names.periodic, ("beat", "rest"))):
        before[subject] = await make_old(connection, names, subject, "note.it")
    assert (await jobs.status(later)).status == "queued"
    own_target = await target_of(connection, names, names.schedule(own))
    assert await move_to_lanes(connection, names) == 4
    assert await move_to_lanes(connection, names) == 0
    assert await target_of(connection, names, names.schedule(soon)) == "due.parallel.high.-.note.it"
    assert await target_of(connection, names, names.schedule(later)) == "due.parallel.high.acme%2Eorg.note.it"
    assert await target_of(connection, names, names.periodic("rest")) == "due.parallel.high.-.note.it"
    assert await target_of(connection, names, names.schedule(own)) == own_target == "due.high._1f.note.it"
    assert {one.name: one.paused for one in await jobs.schedules.list()} == {"beat": False, "rest": True}
    for subject, old in before.items():
        new = await Schedules(connection, names).find(subject)
        assert new is not None
        assert new.own_headers == old.own_headers
        assert {**new.timing, TARGET: ""} == {**old.timing, TARGET: ""}
        assert new.data == old.data
    async with jobs.worker():
        await jobs.result(soon, timeout=15)
        await eventually(lambda: {1, 4} <= set(lanes))
    assert set(lanes.values()) == {"parallel"}


async def test_a_stranger_s_schedules_stay_as_they_are(jobs: JobService, connection: Connection) -> None:
    names, schedules = Names(jobs.config.namespace), Schedules(connection, Names(jobs.config.namespace))
    due = (await jobs.status(await jobs.submit("t", 1, delay=timedelta(hours=2)))).scheduled_for
    assert due is not None
    for place, target in (("*", "due.high._1f.t"), ("x", "due.higher._1f.t"), ("y", "due.high._own.t")):
        headers = {"Nats-Schedule": f"@at {due.isoformat()}", TARGET: f"{names.namespace}.{target}"}
        subject = f"{names.namespace}.at.{place}".encode()
        await schedules.store(subject, {**headers, "Nats-Schedule-TTL": "1h"}, b"1")
    assert await move_to_lanes(connection, names) == 0
    assert (await jobs.status(await jobs.submit("t", 2, delay=7200))).status == "queued"
