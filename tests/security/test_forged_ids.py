"""Ids are no secrets: who may publish jobs takes over no other's job by sending its id."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from secured import inbox_of, plain_client, wire

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.model.job import JobStatusResponse

Settings = Callable[..., JobService.Config]


class Place(NamedTuple):
    """Where a publisher may publish, and what its ids begin with."""

    publish: str = "jobs.{priority}.e.echo"
    due: str = "jobs.due.{priority}.e.echo"
    stream: str = "JOBS_{priority}"
    prefix: str = "{priority}"
    source: str = "JOBS_SCHEDULE:C=x 1 jobs.due.normal.*.> jobs.normal.{{wildcard(1)}}.> jobs.due.normal.e.t"

    def id_of(self, sequence: int, priority: str = "normal") -> str:
        return f"{self.prefix.format(priority=priority)}-{sequence}"


ORDERED = Place()
PARALLEL = Place(
    "jobs.parallel.{priority}.-.echo",
    "jobs.due.parallel.{priority}.-.echo",
    "JOBS_{priority}_PARALLEL",
    "{priority}-parallel",
    "JOBS_SCHEDULE:C=x 1 jobs.due.parallel.normal.*.> jobs.parallel.normal.{{wildcard(1)}}.> "
    "jobs.due.parallel.normal.-.t",
)
# Each of them gets by the server's own check of the two headers.
HIDDEN = {
    "without any mark": "",
    "in other letter case": "nats-stream-source: {source}\r\nnats-scheduler: {scheduler}\r\n",
    "behind an empty one": "Nats-Stream-Source:\r\nNats-Stream-Source: {source}\r\n"
    "Nats-Scheduler:\r\nNats-Scheduler: {scheduler}\r\n",
    "behind the name twice in a row": "X: Nats-Stream-SourceNats-Stream-Source\r\nNats-Stream-Source: {source}\r\n"
    "X: Nats-SchedulerNats-Scheduler\r\nNats-Scheduler: {scheduler}\r\n",
    "the source alone, behind the name twice in a row": "X: Nats-Stream-SourceNats-Stream-Source\r\n"
    "Nats-Stream-Source: {source}\r\n",
    "behind a bare carriage return": "X: y\rNats-Stream-Source: {source}\r\nX: y\rNats-Scheduler: {scheduler}\r\n",
}


@pytest.fixture(params=[ORDERED, PARALLEL], ids=["ordered", "parallel"])
def lane(request: pytest.FixtureRequest) -> Place:
    place: Place = request.param
    return place


class Ran:
    """What a worker's handler `echo` was called with."""

    def __init__(self, worker: JobService) -> None:
        self.seen: list[tuple[str, object, str | None]] = []

        @worker.handler("echo")
        async def echo(payload: object, ctx: JobService.Context) -> object:
            self.seen.append((ctx.job_id, payload, ctx.tenant_id))
            if payload == "dies":
                raise JobService.Error.from_validation("it shall die")
            return payload


@asynccontextmanager
async def running(as_user: Settings) -> AsyncIterator[Ran]:
    worker = JobService(as_user("worker"))
    ran = Ran(worker)
    async with worker, worker.worker():
        yield ran


async def forge(url: str, subject: str, lines: str, body: bytes = b'"theirs"', user: str = "publisher") -> int:
    """Publish with a header block that no client would write; its place in the stream."""
    async with plain_client(url, user) as client:
        inbox = f"{inbox_of(user)}.{client.new_inbox().rpartition('.')[2]}"
        answer = asyncio.get_running_loop().create_future()

        async def hear(message: object) -> None:
            answer.set_result(json.loads(message.data))

        await client.subscribe(inbox, cb=hear)
        block = f"NATS/1.0\r\nJsjobs-Tenant: intruder\r\n{lines}\r\n".encode()
        command = b"HPUB %b %b %d %d\r\n" % (subject.encode(), inbox.encode(), len(block), len(block) + len(body))
        await client._send_command(command + block + body + b"\r\n")
        await client.flush()
        said = await asyncio.wait_for(answer, 10)
    assert "error" not in said, said
    return said["seq"]


async def is_refused(service: JobService, place: str, header: str) -> None:
    """The forged message is a dead job of its own, which says what was wrong with it."""
    status = await eventually(lambda: _ended(service, place))
    assert (status.status, status.error_reason, status.tenant) == ("failed", "Validation", "intruder")
    assert status.last_error is not None
    assert header in status.last_error


async def _ended(service: JobService, job_id: str) -> JobStatusResponse | None:
    status = await service.status(job_id)
    return status if status.status in {"complete", "failed", "cancelled"} else None


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_a_publisher_takes_over_no_delayed_job(as_user: Settings, lane: Place, hidden: str) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, running(as_user) as ran:
        job_id = await operator.submit("echo", "mine", delay=1.2)
        marks = HIDDEN[hidden].format(source=lane.source, scheduler=f"jobs.at.{job_id}")
        place = await forge(url, lane.publish.format(priority="normal"), f"Jsjobs-Id: {job_id}\r\n{marks}")
        await is_refused(operator, lane.id_of(place), "Jsjobs-Id")
        assert (await operator.status(job_id)).status == "queued"
        assert await operator.result(job_id, timeout=20) == "mine"
        assert ran.seen == [(job_id, "mine", None)]


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_a_publisher_takes_over_no_firing_of_a_schedule(as_user: Settings, lane: Place, hidden: str) -> None:
    url = as_user("operator").nats_url
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    name = "Nats-Schedule-Next"
    next_at = f"X: {name}{name}\r\n{name}: {due:%Y-%m-%dT%H:%M:%SZ}\r\n"
    async with JobService(as_user("operator")) as operator, running(as_user) as ran:
        await operator.schedules.add("beat", "echo", "mine", every=3600)
        marks = HIDDEN[hidden].format(source=lane.source, scheduler="jobs.at.schedule.beat")
        lines = f"Jsjobs-Schedule: beat\r\nJsjobs-Timetable: every 3600s\r\n{next_at}{marks}"
        place = await forge(url, lane.publish.format(priority="normal"), lines)
        await is_refused(operator, lane.id_of(place), "Jsjobs-Schedule")
        assert ran.seen == []


@pytest.mark.parametrize("hidden", ["without any mark", "the source alone, behind the name twice in a row"])
async def test_a_publisher_takes_over_no_replay_and_swallows_none(as_user: Settings, lane: Place, hidden: str) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, running(as_user) as ran:
        async with JobService(as_user("router")) as router, router.router():
            await operator.submit("echo", "dies", tenant="acme")
            letter = (await eventually(lambda: operator.dlq.list(tenant="acme")))[0]
        await operator.dlq.edit(letter.id, b'"mended"')
        job_id = f"replay-1-{letter.id}"
        # A queue drops what it sources, too, as a duplicate of what had the same message id.
        await forge(url, lane.publish.format(priority="normal"), f"Nats-Msg-Id: {job_id}\r\n", b'"first"')
        place = await forge(
            url,
            lane.publish.format(priority="normal"),
            f"Jsjobs-Id: {job_id}\r\n{HIDDEN[hidden].format(source=lane.source)}",
        )
        await is_refused(operator, lane.id_of(place), "Jsjobs-Id")
        assert await operator.replay(str(letter.id)) == job_id
        assert await operator.result(job_id, timeout=20) == "mended"
        assert (job_id, "mended", "acme") in ran.seen
        assert "theirs" not in [payload for _, payload, _ in ran.seen]


async def test_a_schedule_carries_no_other_schedules_id(as_user: Settings, lane: Place) -> None:
    """Who may write its own schedule, and only that, has its firing named by no other id."""
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, running(as_user) as ran:
        job_id = await operator.submit("echo", "mine", delay=1.5)
        forged = (
            ("jobs.at.at-own", f"Jsjobs-Id: {job_id}\r\n"),
            ("jobs.at.at-own-2", "Jsjobs-Id: replay-1-x\r\n"),
            ("jobs.at.at-own-3", f"Jsjobs-Id: {job_id}\r\nNats-Scheduler:\r\nNats-Scheduler: jobs.at.{job_id}\r\n"),
        )
        target = lane.due.format(priority="low")
        timing = f"Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: {target}\r\n"
        for subject, lines in forged:
            await forge(url, subject, timing + lines, user="delaying")

        async def refused() -> bool:
            stream = lane.stream.format(priority="LOW")
            last = (await call(operator.connection, f"STREAM.INFO.{stream}"))["state"]["last_seq"]
            ids = [lane.id_of(last - back, "low") for back in range(len(forged))]
            return [(await operator.status(each)).error_reason for each in ids] == ["Validation"] * len(forged)

        await eventually(refused)
        assert await operator.result(job_id, timeout=20) == "mine"
        assert ran.seen == [(job_id, "mine", None)]


async def test_a_forged_copy_is_cancelled_as_the_job_that_it_is(as_user: Settings, lane: Place) -> None:
    """Neither `cancel` nor `status` of the true job meets the copy, nor the other way round."""
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator:
        job_id = await operator.submit("echo", "mine", delay=3600)
        marks = HIDDEN["behind the name twice in a row"].format(source=lane.source, scheduler=f"jobs.at.{job_id}")
        lines = f"Jsjobs-Id: {job_id}\r\n{marks}"
        copy = lane.id_of(await forge(url, lane.publish.format(priority="normal"), lines))
        assert (await operator.status(copy)).job_id == copy
        assert (await operator.cancel(copy)).job_id == copy
        status = await operator.status(job_id)
        assert (status.status, status.tenant) == ("queued", None)
        assert status.scheduled_for is not None
        assert (await operator.cancel(job_id)).status == "cancelled"


async def test_a_worker_writes_no_schedule_unless_its_handlers_delay(as_user: Settings) -> None:
    url = as_user("operator").nats_url
    subjects = ("jobs.at.at-x", "jobs.at.schedule.x", "jobs.at.debounce.x", "jobs.at.key.x", "jobs.at.marker.x")
    async with wire(url, "worker") as worker, wire(url, "delaying") as delaying:
        assert [await worker.is_refused(subject) for subject in subjects] == [True] * len(subjects)
        assert [await delaying.is_refused(subject) for subject in subjects] == [False] * len(subjects)
        for user in (worker, delaying):
            assert await user.is_refused("jobs.due.normal.e.t")
