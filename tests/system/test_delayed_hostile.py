"""Strangers publish anything to the schedules: no worker crashes, and other delayed jobs go on."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client
from nats.js.errors import APIError

from facts import eventually
from jsjobs import JobService
from jsjobs.dead_letters.fired import Fired
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names

LARGEST = 913_408
"""What the schedule stream takes, header and body."""


def soon(seconds: float = 0.3) -> str:
    return "@at " + (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def due_directly(namespace: str) -> Iterator[tuple[str, bytes, dict[str, str] | None]]:
    due = f"{namespace}.due"
    for subject in (f"{due}.nope.x.y", f"{due}.high.x", f"{due}.high", f"{due}.x", f"{due}.high.$SYS.y"):
        yield subject, b"1", None
    for token in ("é", "a{{wildcard(1)}}", "%", "a-b_c"):
        yield f"{due}.high.{token}.{token}", b"1", None
    for number in range(1000):
        yield f"{due}.high.e.type-{number}", b"", None
    yield f"{due}.high.e.note", b"{not json", {"Jsjobs-Id": "nonsense", "Jsjobs-Max-Attempts": "many"}
    yield f"{due}.high.e.note", b"\xff\xfe", {"Nats-Rollup": "sub"}
    yield f"{due}.high.e.note", b"x" * LARGEST, None
    yield f"{due}.high.e.{'t' * 3000}", b"x" * LARGEST, None
    yield f"{due}.high.e.note", b"1", {"Own": "h" * 64_000}


def scheduled(namespace: str) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    for number, target in enumerate(("nope.x.y", "high.x", "high", f"high.e.{'t' * 20_000}", "high.*.y")):
        headers = {"Nats-Schedule": soon(), "Nats-Schedule-Target": f"{namespace}.due.{target}"}
        yield f"{namespace}.at.at-{number}", b"1", headers
    target = {"Nats-Schedule-Target": f"{namespace}.due.high.e.note"}
    yield f"{namespace}.at.at-never", b"1", {"Nats-Schedule": "whenever", **target}
    yield f"{namespace}.at.at-large", b"x" * (LARGEST - 400), {"Nats-Schedule": soon(), **target}
    yield f"{namespace}.at.{'s' * 3000}", b"x" * (LARGEST - 400), {"Nats-Schedule": soon(), **target}
    yield f"{namespace}.at.at-every", b"1", {"Nats-Schedule": "@every 1s", **target, "Jsjobs-Id": "at-every"}


async def goes_on(jobs: JobService) -> bool:
    ids = [await jobs.submit("note", n, delay=0.2, priority=each) for n, each in enumerate(("high", "critical", "low"))]
    return await jobs.results(ids, timeout=30) == [0, 1, 2]


async def test_nothing_that_strangers_publish_holds_up_other_delayed_jobs(
    jobs: JobService, plain: Client, connection: Connection
) -> None:
    namespace, stream = jobs.config.namespace, plain.jetstream()

    @jobs.handler("note")
    async def note(payload: object) -> object:
        return payload

    async with jobs.worker():
        for subject, body, headers in (*due_directly(namespace), *scheduled(namespace)):
            try:
                await stream.publish(subject, body, headers=headers)
            except APIError:
                continue  # the server refuses some of it
        for subject in (f"{namespace}.due.high.e.note", f"{namespace}.at.at-malformed"):
            # Eight bytes of headers, without an end.
            await connection.ask(subject.encode(), b"1", header=b"NATS/1.0")
        assert await goes_on(jobs)


async def test_an_id_of_a_job_that_runs_is_not_run_twice(jobs: JobService, plain: Client) -> None:
    ran: list[object] = []

    @jobs.handler("note")
    async def note(payload: object) -> None:
        ran.append(payload)

    job_id = await jobs.submit("note", "mine", delay=0.2)
    async with jobs.worker():
        await jobs.result(job_id)
        await plain.jetstream().publish(
            f"{jobs.config.namespace}.due.normal.e.note", b'"theirs"', headers={"Jsjobs-Id": job_id}
        )
        await jobs.result(await jobs.submit("note", "after", delay=0.3))
    assert ran == ["mine", "after"]


async def test_what_its_queue_can_never_take_is_set_aside(
    jobs: JobService, plain: Client, connection: Connection
) -> None:
    names, stream = Names(jobs.config.namespace), plain.jetstream()
    jobs.register_handler("note", lambda payload: payload)
    due = f"{names.namespace}.due.high.e"
    async with jobs.worker():
        # With the header that sourcing adds, there are more than the 64 KiB of headers that the server stores.
        await stream.publish(f"{due}.note", b'"first"', headers={"Own": "h" * 65_500})
        source = {"Nats-Schedule": soon(0), "Nats-Schedule-Source": f"{names.namespace}.due.large"}
        await stream.publish(f"{names.namespace}.due.large", b"x" * (LARGEST - 400))
        target = f"{due}.{'t' * 60_000}"
        await stream.publish(f"{names.namespace}.at.at-1", b"", headers={**source, "Nats-Schedule-Target": target})
        behind = await jobs.submit("note", "behind", delay=0.5, priority="high")

        clearing = Fired(connection, names)  # as every router's sweep does

        async def all_are() -> bool:
            await clearing.clear()
            return (await jobs.status(behind)).status == "complete"

        await eventually(all_are, within=40)
    info = await call(
        connection, f"STREAM.INFO.{names.schedule_stream}", {"subjects_filter": f"{names.namespace}.due.unfit"}
    )
    assert info["state"]["subjects"] == {f"{names.namespace}.due.unfit": 2}
