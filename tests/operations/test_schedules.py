"""Periodic schedules: added by hand and fired by the server; on real servers."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.messages import StoredMessage, find_stored
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import read_stored_job
from jsjobs.jetstream.protocol.headers import parse_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import AnotherSchedule

Status = JobService.Status


def now() -> datetime:
    return datetime.now(UTC)


class Fired:
    """The jobs that a schedule's firings became."""

    def __init__(self, jobs: JobService) -> None:
        self.seen: list[tuple[str, Any, JobService.Context]] = []

        @jobs.handler("tick")
        async def tick(payload: object, ctx: JobService.Context) -> object:
            self.seen.append((ctx.job_id, payload, ctx))
            return payload

    @property
    def ids(self) -> list[str]:
        return [job_id for job_id, _, _ in self.seen]


@pytest.fixture
def fired(jobs: JobService) -> Fired:
    return Fired(jobs)


async def refused(doing: Awaitable[object], reason: str = "Validation") -> str:
    with pytest.raises(JobService.Error) as caught:
        await doing
    assert caught.value.reason == reason
    return caught.value.message


async def test_each_firing_is_a_job_named_after_its_schedule_and_due_time(jobs: JobService, fired: Fired) -> None:
    added = await jobs.schedules.add(
        "beat", "tick", {"n": 1}, every=1, entity="one", priority="high", tenant="acme", max_attempts=7, timeout=5
    )
    assert (added.name, added.timetable, added.type, added.payload) == ("beat", "every 1s", "tick", {"n": 1})
    assert (added.entity, added.priority, added.tenant, added.max_attempts, added.timeout) == (
        "one",
        "high",
        "acme",
        7,
        5,
    )
    assert len(added.next) == 5
    async with jobs.worker():
        await eventually(lambda: len(fired.seen) >= 3)
    assert len(set(fired.ids)) == len(fired.ids)
    dues = [datetime.strptime(job_id, "at-beat-%Y%m%dT%H%M%S%z") for job_id in fired.ids]
    assert {later - earlier for earlier, later in itertools.pairwise(dues)} == {timedelta(seconds=1)}
    assert abs(dues[0] - added.next[0]) <= timedelta(seconds=1)
    _, payload, context = fired.seen[0]
    assert (payload, context.entity, context.priority, context.tenant_id) == ({"n": 1}, "one", "high", "acme")
    status = await jobs.status(fired.ids[0])
    assert (status.status, status.scheduled_for, status.max_attempts) == (Status.COMPLETE, dues[0], 7)


async def test_a_cron_fires_when_its_preview_says(jobs: JobService, fired: Fired) -> None:
    added = await jobs.schedules.add("beat", "tick", cron="*/2 * * * * *", zone="Europe/Berlin")
    assert (added.timetable, added.zone) == ("*/2 * * * * *", "Europe/Berlin")
    async with jobs.worker():
        await eventually(lambda: len(fired.seen) >= 2)
    names = [f"at-beat-{due:%Y%m%dT%H%M%SZ}" for due in added.next]
    # Added just before a tick, the server may have stored it behind it.
    assert fired.ids[:2] in (names[:2], names[1:3])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cron": "0 9 * *"}, "fields"),
        ({"cron": "0 25 * * *"}, "hour"),
        ({"cron": "0 9 * * 1-5", "zone": "Mars/Base"}, "not an IANA time zone"),
        ({"every": 0.5}, "whole seconds"),
        ({"every": 30, "zone": "Europe/Berlin"}, "a time zone goes with a cron"),
        ({"every": 30, "cron": "@daily"}, "either cron"),
        ({}, "either cron"),
        ({"every": 30, "delay": 5}, "a schedule takes no delay"),
        ({"every": 30, "priority": "urgent"}, "priority"),
        ({"every": 30, "name": "a.b"}, "1 to 64 of A-Z"),
        ({"every": 30, "job_type": "no type"}, "job type"),
    ],
)
async def test_what_can_be_no_schedule_is_refused(jobs: JobService, given: dict[str, Any], told: str) -> None:
    given = {"name": "beat", "job_type": "tick", **given}
    assert told in await refused(jobs.schedules.add(given.pop("name"), given.pop("job_type"), **given))
    assert await jobs.schedules.list() == []


async def test_its_payload_is_checked_against_the_handler(jobs: JobService) -> None:
    @jobs.handler("number")
    async def number(payload: int) -> int:
        return payload

    assert "is invalid" in await refused(jobs.schedules.add("beat", "number", "seven", every=30))


async def test_a_name_is_one_schedule_until_it_is_replaced(jobs: JobService) -> None:
    schedules = jobs.schedules
    first = await schedules.add("beat", "tick", 1, cron="0 9 * * 1-5", zone="Europe/Berlin")
    again = await schedules.add("beat", "tick", 1, cron="0 9 * * 1-5", zone="Europe/Berlin")
    assert again.model_copy(update={"changed_at": first.changed_at}) == first
    with pytest.raises(AnotherSchedule, match="a different schedule 'beat'"):
        await schedules.add("beat", "tick", 2, cron="0 9 * * 1-5")
    await schedules.pause("beat")
    second = await schedules.add("beat", "tick", 2, every=60, replace=True)
    assert (second.payload, second.timetable, second.paused, second.next) == (2, "every 60s", True, ())
    await schedules.add("alarm", "tick", every=3600)
    assert [(one.name, one.paused) for one in await schedules.list()] == [("alarm", False), ("beat", True)]
    assert (await schedules.show("beat")).payload == 2


async def test_ten_who_add_the_same_at_once_add_one(jobs: JobService, plain: Client) -> None:
    await asyncio.gather(*(jobs.schedules.add("beat", "tick", every=60) for _ in range(10)))
    [only] = await jobs.schedules.list()
    info = await plain.jetstream().stream_info(f"{jobs.config.namespace.upper()}_SCHEDULE")
    assert (only.name, info.state.messages) == ("beat", 1)


async def test_paused_it_fires_no_more_and_resumed_it_does(jobs: JobService, fired: Fired) -> None:
    schedules = jobs.schedules
    await schedules.add("beat", "tick", every=1)
    async with jobs.worker():
        await eventually(lambda: len(fired.seen) >= 1)
        assert (await schedules.pause("beat")).paused
        witness = await jobs.submit("tick", "witness", delay=2.5)
        await jobs.result(witness)
        before = [job_id for job_id in fired.ids if job_id.startswith("at-beat")]
        last = datetime.strptime(before[-1], "at-beat-%Y%m%dT%H%M%S%z")
        assert last < now() - timedelta(seconds=1.2)
        assert not (await schedules.resume("beat")).paused
        await eventually(lambda: len(fired.ids) > len(before) + 1)
    assert "no schedule 'other'" in await refused(schedules.pause("other"), "NotFound")


async def test_removed_it_is_gone(jobs: JobService, fired: Fired) -> None:
    schedules = jobs.schedules
    await schedules.add("beat", "tick", every=1)
    await schedules.remove("beat")
    assert await schedules.list() == []
    for doing in (schedules.show, schedules.remove, schedules.run, schedules.resume):
        assert "no schedule 'beat'" in await refused(doing("beat"), "NotFound")
    async with jobs.worker():
        await jobs.result(await jobs.submit("tick", "witness", delay=2))
        assert not any("beat" in job_id for job_id in fired.ids)
        await schedules.add("beat", "tick", "again", every=1)
        await eventually(lambda: any("beat" in job_id for job_id in fired.ids))


async def test_run_submits_its_job_now_paused_or_not(jobs: JobService, fired: Fired) -> None:
    schedules = jobs.schedules
    await schedules.add("nightly", "tick", {"n": 1}, cron="0 3 * * *", entity="one", tenant="acme", max_attempts=2)
    await schedules.pause("nightly")
    job_id = await schedules.run("nightly")
    assert job_id.startswith("normal-")
    async with jobs.worker():
        assert await jobs.result(job_id) == {"n": 1}
    _, _, context = fired.seen[0]
    assert (context.entity, context.tenant_id) == ("one", "acme")
    assert (await jobs.status(job_id)).max_attempts == 2
    assert (await schedules.show("nightly")).paused


async def test_a_firing_that_comes_twice_is_one_job(jobs: JobService, plain: Client, connection: Connection) -> None:
    """As after a source that began anew: the very same message once more, behind the first, a moment later."""
    await jobs.schedules.add("beat", "tick", every=1, priority="low")
    names = Names(jobs.config.namespace)

    async def stands() -> StoredMessage | None:
        return await find_stored(connection, names.stream("low_parallel"), {"seq": 1, "next_by_subj": ">"})

    message = await eventually(stands)
    assert message is not None
    first = read_stored_job(names, message)
    later = message._replace(sequence=message.sequence + 7, stored_at=message.stored_at + timedelta(seconds=20))
    again = read_stored_job(names, later)
    assert (again.job_id, again.scheduled_for) == (first.job_id, first.scheduled_for)
    assert again.own(first.entry()) is None


async def test_a_strangers_nonsense_on_a_schedules_subject_hides_no_other(
    jobs: JobService, plain: Client, fired: Fired
) -> None:
    root = f"{jobs.config.namespace}.at.schedule"
    await jobs.schedules.add("good", "tick", every=3600)
    for name, headers in {
        "none": {},
        "broken": {"Nats-Schedule": "@every 1h", "Nats-Schedule-Target": f"{jobs.config.namespace}.due.x"},
        "untimed": {"Nats-Schedule": "@every 1h", "Nats-Schedule-Target": f"{jobs.config.namespace}.due.low.e.tick"},
    }.items():
        await plain.jetstream().publish(f"{root}.{name}", b"{}", headers=headers)
    await jobs.connection.ask(f"{root}.unread".encode(), b"{}", header=b"NATS/1.0\r\nno header\r\n\r\n")
    await jobs.schedules.add("behind", "tick", every=3600)
    assert [one.name for one in await jobs.schedules.list()] == ["behind", "good"]
    assert "'broken' is not a schedule of jsjobs" in await refused(jobs.schedules.show("broken"))
    async with jobs.worker():
        assert await jobs.result(await jobs.submit("tick", 1)) == 1


async def test_a_raw_firing_without_our_headers_is_a_plain_job(jobs: JobService, plain: Client, fired: Fired) -> None:
    headers = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": f"{jobs.config.namespace}.due.low.e.tick"}
    await plain.jetstream().publish(f"{jobs.config.namespace}.at.mine", json.dumps("raw").encode(), headers=headers)
    async with jobs.worker():
        await eventually(lambda: len(fired.seen) >= 2)
    assert all(job_id.startswith("low-") for job_id in fired.ids)


async def test_a_schedule_on_a_wildcard_is_none_and_taking_it_away_takes_no_other(
    jobs: JobService, plain: Client, app_of: Callable[..., JobService]
) -> None:
    """It says that the application owns it, which no longer declares it: a worker of that one would take it away."""
    target = f"{jobs.config.namespace}.due.low.e.report.build"
    headers = {"Nats-Schedule": "@every 1h", "Nats-Schedule-Target": target, "Jsjobs-Owner": "app"}
    headers |= {"Jsjobs-Timetable": "every 3600s"}
    await jobs.schedules.add("before", "report.build", every=3600)
    await plain.jetstream().publish(f"{jobs.config.namespace}.at.schedule.*", b"{}", headers=headers)
    assert await names_of(jobs) == [], "the server took away all that the stranger's subject matches"
    await jobs.schedules.add("by-hand", "report.build", every=3600)
    assert await names_of(jobs) == ["by-hand"]
    app = app_of()
    app.periodic(every=60, job_type="report.build", name="declared")(print)
    async with app, app.worker():
        await eventually(lambda: _has(jobs, "declared"))
    gone = app_of()
    async with gone, gone.worker():
        await eventually(lambda: _has_not(jobs, "declared"))
    assert await names_of(jobs) == ["by-hand"]


# -- declared by code


@pytest.fixture
def app_of(config: JobService.Config) -> Callable[..., JobService]:
    """An application with one handler, in this test's namespace."""

    def make(**given: Any) -> JobService:
        app = JobService(config.model_copy(update=given))

        @app.handler("report.build")
        async def build(payload: object) -> object:
            return payload

        return app

    return make


async def names_of(jobs: JobService) -> list[str]:
    return [one.name for one in await jobs.schedules.list()]


async def test_what_code_declares_is_added_changed_and_removed_when_a_worker_starts(
    jobs: JobService, app_of: Callable[..., JobService]
) -> None:
    await jobs.schedules.add("by-hand", "report.build", every=3600)

    async def become(app: JobService, expected: dict[str, str]) -> None:
        async def is_so() -> bool:
            there = {one.name: one.timetable for one in await jobs.schedules.list()}
            return there == {"by-hand": "every 3600s", **expected}

        async with app, app.worker():
            await eventually(is_so)

    first = app_of()

    @first.handler("tick")
    @first.periodic("0 3 * * *", zone="Europe/Berlin", priority="low")
    @first.periodic(every=60, name="often", payload={"n": 1})
    async def tick(payload: object) -> None: ...

    await become(first, {"tick": "0 3 * * *", "often": "every 60s"})
    owners = {one.name: one.owner for one in await jobs.schedules.list()}
    assert owners == {"by-hand": None, "tick": "app", "often": "app"}
    before = await jobs.schedules.show("often")
    await jobs.schedules.pause("tick")
    await become(first, {"tick": "0 3 * * *", "often": "every 60s"})
    assert await jobs.schedules.show("often") == before.model_copy(
        update={"next": (await jobs.schedules.show("often")).next}
    )

    second = app_of()
    second.periodic("30 3 * * *", job_type="report.build", name="tick")(lambda _: None)
    await become(second, {"tick": "30 3 * * *"})
    changed = await jobs.schedules.show("tick")
    assert (changed.type, changed.paused, changed.zone) == ("report.build", True, None)

    await become(app_of(), {})


async def test_schedules_of_another_application_or_by_hand_are_left_alone(
    jobs: JobService, app_of: Callable[..., JobService], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = app_of(app="one"), app_of(app="other")
    one.periodic(every=60, job_type="report.build", name="ones")(print)
    other.periodic(every=60, job_type="report.build", name="others")(print)
    for app in (one, other):
        async with app, app.worker():
            await eventually(lambda app=app: _has(jobs, f"{app.config.app}s"))
    assert await names_of(jobs) == ["ones", "others"]
    other.periodic(every=30, job_type="report.build", name="ones")(print)
    async with other, other.worker():
        await eventually(lambda: "is left alone: its owner is 'one'" in caplog.text)
    assert (await jobs.schedules.show("ones")).timetable == "every 60s"


async def _has(jobs: JobService, name: str) -> bool:
    return name in await names_of(jobs)


async def _has_not(jobs: JobService, name: str) -> bool:
    return not await _has(jobs, name)


async def test_ten_workers_that_start_at_once_make_one_schedule(
    jobs: JobService, app_of: Callable[..., JobService], plain: Client
) -> None:
    apps = [app_of() for _ in range(10)]
    for app in apps:
        for number in range(5):
            app.periodic(every=60 + number, job_type="report.build", name=f"s{number}")(print)

    async def work(app: JobService) -> None:
        async with app, app.worker():
            await eventually(lambda: _has(jobs, "s4"))

    await asyncio.gather(*(work(app) for app in apps))
    assert await names_of(jobs) == [f"s{number}" for number in range(5)]
    info = await plain.jetstream().stream_info(f"{jobs.config.namespace.upper()}_SCHEDULE")
    assert info.state.messages == 5


async def test_a_schedule_that_is_refused_keeps_no_other_back(
    jobs: JobService, app_of: Callable[..., JobService], caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of()
    app.periodic(every=60, job_type="report.build", name="a-huge-one", payload="x" * (892 * 1024))(print)
    app.periodic(every=60, job_type="report.build", name="small")(print)
    async with app, app.worker():
        await eventually(lambda: _has(jobs, "small"))
    assert await names_of(jobs) == ["small"]
    assert "schedule a-huge-one is not what the code declares: the job is too large for a schedule" in caplog.text


async def test_streams_that_come_later_get_the_schedules_then(
    config: JobService.Config,
    app_of: Callable[..., JobService],
    deploy: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jsjobs.operations.declared_schedules.TRY_AGAIN", 0.1)
    app = app_of()
    app.periodic(every=60, job_type="report.build")(print)
    async with app, app.worker():
        await deploy(config)
        await eventually(lambda: _has(app, "report-build"))


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda app: app.periodic(every=60)(print), "is not a handler: say which job is meant"),
        (lambda app: [app.periodic(every=60, job_type="t", name="n")(print) for _ in "ab"], "two schedules are named"),
        (lambda app: app.periodic(every=60, job_type="t", name="a.b")(print), "1 to 64 of A-Z"),
        (lambda app: app.periodic(every=60, job_type="t", colour="red")(print), "a schedule takes no colour"),
        (lambda app: app.periodic("soon", job_type="t")(print), "fields"),
        (lambda app: app.periodic(every=60, job_type="t", max_attempts=1001)(print), "less than or equal to 1000"),
    ],
)
async def test_a_declaration_that_cannot_be_used_is_told_before_any_work(
    jobs: JobService, app_of: Callable[..., JobService], declare: Callable[[JobService], object], told: str
) -> None:
    async with app_of() as app:

        def begin() -> None:
            declare(app)
            app.worker()

        with pytest.raises(JobService.Error, match=told):
            begin()


# -- strangers


async def test_whoever_has_schedules_makes_nobody_publish_elsewhere(
    jobs: JobService, plain: Client, fired: Fired
) -> None:
    namespace = jobs.config.namespace
    elsewhere = await plain.subscribe(">")
    await plain.flush()

    def schedule(name: str, *targets: str) -> tuple[bytes, bytes]:
        lines = "".join(f"Nats-Schedule-Target: {target}\r\n" for target in targets)
        header = f"NATS/1.0\r\nNats-Schedule: @at 2099-01-01T00:00:00Z\r\nJsjobs-Id: {name}\r\n{lines}\r\n"
        return f"{namespace}.at.{name}".encode(), header.encode()

    for name, *targets in (
        ("at-dead", f"{namespace}.due.dead.normal-99"),
        ("at-two", f"{namespace}.due.low.e.tick", "secret.x"),
    ):
        subject, header = schedule(name, *targets)
        assert b"error" not in (await jobs.connection.ask(subject, b"1", header=header)).data
    assert "is not a subject from which a queue takes" in await refused(jobs.run_now("at-dead"))
    await jobs.run_now("at-two")
    async with jobs.worker():
        await jobs.result("at-two")
    for name, target in (("dead", f"{namespace}.due.dead.normal-99"), ("none", "")):
        headers = {"Jsjobs-Paused": "@every 1h", **({"Nats-Schedule-Target": target} if target else {})}
        await plain.jetstream().publish(f"{namespace}.at.schedule.{name}", b"{}", headers=headers)
        assert "is not a subject from which a queue takes" in await refused(jobs.schedules.run(name))
    await plain.flush()
    seen = set()
    while elsewhere.pending_msgs:
        seen.add((await elsewhere.next_msg()).subject)
    assert not {"secret.x", f"{namespace}.dead.normal-99"} & seen


async def test_what_a_stranger_says_of_a_firing_is_that_jobs_problem_alone(
    jobs: JobService, plain: Client, fired: Fired
) -> None:
    for next_at in ("0001-01-01T00:00:01Z", "9999-12-31T23:59:59Z", "soon"):
        headers = {"Jsjobs-Schedule": "a", "Jsjobs-Timetable": "every 5s", "nats-schedule-next": next_at}
        await plain.jetstream().publish(f"{jobs.config.namespace}.low.e.tick", b"1", headers=headers)
    ack = await plain.jetstream().publish(
        f"{jobs.config.namespace}.low.e.tick", b"2", headers={"Jsjobs-Id": "at-beat-20261126T030000Z"}
    )
    async with jobs.worker():
        await jobs.result(await jobs.submit("tick", "behind", priority="low", entity="e"))
        assert [payload for _, payload, _ in fired.seen] == [1, 1, 1, "behind"]
        assert "can only be the id of a firing" in await refused(jobs.result(f"low-{ack.seq}"))


async def test_a_subject_that_is_no_text_hides_no_schedule(jobs: JobService) -> None:
    await jobs.schedules.add("good", "tick", every=3600)
    header = (
        f"NATS/1.0\r\nNats-Schedule: @every 1h\r\nNats-Schedule-Target: {jobs.config.namespace}.due.low.e.x\r\n\r\n"
    )
    subject = f"{jobs.config.namespace}.at.schedule.".encode() + b"\xff"
    await jobs.connection.ask(subject, b"{}", header=header.encode())
    assert [one.name for one in await jobs.schedules.list()] == ["good"]
    assert await jobs.schedules.remove("good") is None


@pytest.mark.parametrize("where", ["in its queue", "before a full queue"])
async def test_a_firing_that_no_worker_has_begun_is_queued_and_can_be_cancelled(
    where: str, settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]
) -> None:
    config = settings_of(capacity=100 if where == "in its queue" else 1)
    await deploy(config)
    names = Names(config.namespace)
    async with JobService(config) as jobs:
        fired = Fired(jobs)
        before = await jobs.submit("tick", {"n": 0}, entity="one")
        due = f"{names.namespace}.due.normal.>"

        async def first() -> StoredMessage | None:
            request = {"seq": 1, "next_by_subj": due}
            return await find_stored(jobs.connection, names.schedule_stream, request)

        async def lie_in_the_queue() -> bool:
            info = await call(jobs.connection, f"STREAM.INFO.{names.stream('normal')}")
            return int(info["state"]["messages"]) >= 2

        await jobs.schedules.add("beat", "tick", {"n": 1}, every=1, entity="one", tenant="acme")
        message = await eventually(first)
        await jobs.schedules.pause("beat")
        if where == "in its queue":
            await eventually(lie_in_the_queue)
        firing = parse_job_headers(message.header).firing
        assert firing is not None
        job_id = firing.job_id(firing.due(message.stored_at))
        status = await jobs.status(job_id)
        assert (status.status, status.type, status.tenant, status.attempts) == (Status.QUEUED, "tick", "acme", 0)
        assert status.scheduled_for == firing.due(message.stored_at)
        with pytest.raises(JobService.Error, match="is queued after"):
            await jobs.result(job_id, timeout=0.2)
        assert (await jobs.cancel(job_id)).status is Status.CANCELLED
        assert "is already cancelled" in await refused(jobs.cancel(job_id), "AlreadyCancelled")
        async with jobs.worker():
            await jobs.result(before)
            await jobs.result(await jobs.submit("tick", {"n": 2}, entity="other"))

            async def expires() -> bool:
                found = await state_of(jobs).read(job_id)
                return found is not None and found.expires

            await eventually(expires)
        assert job_id not in fired.ids
        later = f"at-beat-{datetime.now(UTC) + timedelta(hours=1):%Y%m%dT%H%M%SZ}"
        assert f"job {later} is not known" in await refused(jobs.status(later), "NotFound")
