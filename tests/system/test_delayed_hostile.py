"""Strangers publish anything to the schedules: no worker crashes, and other delayed jobs go on."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client
from nats.js.errors import APIError

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.dead_letters import recorder
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from router_parts import cleaner_of

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


async def test_what_its_queue_can_never_take_is_a_dead_letter(
    jobs: JobService, plain: Client, connection: Connection
) -> None:
    names, stream = Names(jobs.config.namespace), plain.jetstream()
    jobs.register_handler("note", lambda payload: payload)
    due = f"{names.namespace}.due.high.e"
    # With the header that sourcing adds, there are more than the 64 KiB of headers that the server stores.
    own = {"Own": "h" * 65_400, "Jsjobs-Tenant": "acme"}
    await stream.publish(f"{due}.note", b'"first"', headers=own)
    job_id, fits = "at-0123456789abcdef", {"Own": "h" * 65_250}
    pattern = {"Nats-Schedule": soon(0), "Nats-Schedule-Target": f"{due}.other", "Jsjobs-Id": job_id}
    await stream.publish(names.schedule(job_id).decode(), b'"second"', headers=pattern | fits)
    behind = await jobs.submit("note", "behind", delay=0.5, priority="high")
    async with jobs.worker(), jobs.router() as router:

        async def have_gone() -> bool:
            await router.sweep()
            return len(await jobs.dlq.list()) == 2 and (await jobs.status(behind)).status == "complete"

        await eventually(have_gone, within=40)
        letters = {each.payload: each for each in await jobs.dlq.list()}
        first, second = letters[b'"first"'], letters[b'"second"']
        assert (first.type, first.priority, first.app_id, first.error_reason) == ("note", "high", "acme", "Validation")
        assert "too large for the high queue" in first.error_history[-1]["error"]
        assert dict(first.headers)["Own"] == own["Own"]
        assert (await jobs.status(first.original_job_id)).status == "failed"
        with pytest.raises(JobService.Error, match="bytes of headers"):
            await jobs.replay(str(first.id))
        assert second.original_job_id == job_id, "its schedule fired it"
        with pytest.raises(JobService.Error, match="already dead"):
            await jobs.cancel(job_id)
        await eventually(lambda: expires(jobs, job_id))
    assert await due_subjects(connection, jobs) == set()


async def test_what_is_due_where_no_queue_takes_it_is_a_dead_letter_and_replayable(
    jobs: JobService, plain: Client, connection: Connection
) -> None:
    ran: list[object] = []
    jobs.register_handler("note.it", ran.append)
    names, stream = Names(jobs.config.namespace), plain.jetstream()
    job_id, headers = "at-0123456789abcdef", {"Jsjobs-Tenant": "acme", "Jsjobs-Entity": "e"}
    target = {"Nats-Schedule-Target": f"{names.namespace}.due.hgih.e.note.it", "Jsjobs-Id": job_id}
    subject = names.schedule(job_id).decode()
    await stream.publish(subject, b'"x"', headers={"Nats-Schedule": soon(0), **target, **headers})
    await stream.publish(f"{names.namespace}.due.high", b'"y"')
    async with jobs.worker(), jobs.router() as router:

        async def have_gone() -> bool:
            await router.sweep()
            return len(await jobs.dlq.list()) == 2

        await eventually(have_gone)
        [letter] = [each for each in await jobs.dlq.list() if each.original_job_id == job_id]
        assert (letter.type, letter.priority, letter.entity, letter.app_id) == ("note.it", "normal", "e", "acme")
        assert "hgih.e.note.it" in letter.error_history[-1]["error"]
        await jobs.result(await jobs.replay(str(letter.id)))
    assert ran == ["x"]
    assert await due_subjects(connection, jobs) <= {f"{names.namespace}.due.normal.e.note.it"}, "a replay's alone"


async def test_what_does_not_fit_ends_no_job_of_another(jobs: JobService, plain: Client) -> None:
    """It carries the id of another's job, which no schedule of that id fired."""
    victim = await jobs.submit("note", "mine", delay=3600)
    due = f"{jobs.config.namespace}.due.nowhere"
    await plain.jetstream().publish(due, b'"theirs"', headers={"Jsjobs-Id": victim})
    async with jobs.router() as router:

        async def has_gone() -> bool:
            await router.sweep()
            return bool(await jobs.dlq.list())

        await eventually(has_gone)
        [letter] = await jobs.dlq.list()
        assert letter.original_job_id != victim
    assert (await jobs.status(victim)).status == "queued"


@pytest.mark.parametrize("point", ["send_letter", "delete_message"])
async def test_a_router_that_dies_while_it_buries_what_does_not_fit(
    point: str, jobs: JobService, plain: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plain.jetstream().publish(f"{jobs.config.namespace}.due.nowhere", b'"x"')

    class Killed(BaseException):
        """The end of the router's process."""

    async def die(*_: object, **__: object) -> None:
        raise Killed

    fired = cleaner_of(jobs)
    await fired.clear()
    with monkeypatch.context() as dying:
        dying.setattr(recorder, point, die)
        with pytest.raises(Killed):
            await fired.clear()
    async with jobs.router() as router:

        async def has_gone() -> bool:
            await router.sweep()
            return await due_subjects(connection, jobs) == set() and bool(await jobs.dlq.list())

        await eventually(has_gone)
        [letter] = await jobs.dlq.list()
        await eventually(lambda: expires(jobs, letter.original_job_id))
    assert letter.payload == b'"x"'


async def due_subjects(connection: Connection, jobs: JobService) -> set[str]:
    names = Names(jobs.config.namespace)
    request = {"subjects_filter": f"{names.namespace}.due.>"}
    info = await call(connection, f"STREAM.INFO.{names.schedule_stream}", request)
    # What fired and was taken stays for another sweep or two.
    return {each for each in (info["state"].get("subjects") or {}) if not each.endswith((".note", ".marker"))}


async def expires(jobs: JobService, job_id: str) -> bool:
    found = await state_of(jobs).read(job_id)
    return found is not None and found.expires
