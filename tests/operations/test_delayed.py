"""Delayed jobs: submitted, looked at, run when they are due; on real servers."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import read_stored_job
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.lanes import Lane, Queue
from jsjobs.model.times import rfc3339

Status = JobService.Status


def now() -> datetime:
    return datetime.now(UTC)


class Ran:
    """What a worker's handler was given, and when."""

    def __init__(self, jobs: JobService) -> None:
        self.payloads: list[Any] = []
        self.at: list[datetime] = []
        self.ids: list[str] = []

        @jobs.handler("note")
        async def note(payload: object, ctx: JobService.Context) -> object:
            self.payloads.append(payload)
            self.at.append(now())
            self.ids.append(ctx.job_id)
            return payload


@pytest.fixture
def ran(jobs: JobService) -> Ran:
    return Ran(jobs)


async def state_of(connection: Connection, jobs: JobService, stream: str = "SCHEDULE") -> dict[str, Any]:
    request = {"subjects_filter": ">"}
    info = await call(connection, f"STREAM.INFO.{jobs.config.namespace.upper()}_{stream}", request)
    state: dict[str, Any] = info["state"]
    return state


async def test_a_delayed_job_is_known_from_its_submit_on_and_runs_when_it_is_due(jobs: JobService, ran: Ran) -> None:
    begin = now()
    job_id = await jobs.submit("note", {"n": 1}, delay=0.8, entity="customer 1", priority="high", max_attempts=5)
    assert job_id.startswith("at-")
    assert not job_id.duplicate
    status = await jobs.status(job_id)
    assert (status.status, status.attempts, status.type, status.priority) == (Status.QUEUED, 0, "note", "high")
    assert (status.entity, status.max_attempts) == ("customer 1", 5)
    assert status.scheduled_for is not None
    assert timedelta(seconds=0.8) <= status.scheduled_for - begin <= timedelta(seconds=5)
    async with jobs.worker():
        assert await jobs.result(job_id) == {"n": 1}
    ended = await jobs.status(job_id)
    assert [item.status for item in ended.history] == [Status.QUEUED, Status.PROCESSING, Status.COMPLETE]
    assert (ended.scheduled_for, ended.entity, ended.created_at) == (
        status.scheduled_for,
        "customer 1",
        status.created_at,
    )
    assert ran.ids == [job_id]
    assert ran.at[0] >= status.scheduled_for


@pytest.mark.parametrize("give", [{"delay": timedelta(seconds=0.3)}, {"at": "soon"}])
async def test_a_timedelta_and_a_time_are_taken_too(jobs: JobService, ran: Ran, give: dict[str, Any]) -> None:
    options = {"at": now() + timedelta(seconds=0.3)} if "at" in give else give
    async with jobs.worker():
        job_id = await jobs.submit("note", "x", **options)
        assert job_id.startswith("at-")
        assert await jobs.result(job_id) == "x"


@pytest.mark.parametrize("options", [{"delay": 0}, {"at": datetime(2020, 1, 1, tzinfo=UTC)}])
async def test_what_is_due_already_is_queued_at_once(jobs: JobService, ran: Ran, options: dict[str, Any]) -> None:
    job_id = await jobs.submit("note", "x", **options)
    assert job_id.startswith("normal-")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"at": datetime(2100, 1, 1)}, "aware of its zone"),  # noqa: DTZ001 - a naive one is the point
        ({"at": "tomorrow"}, "must be an RFC 3339 time"),
        ({"at": 1_900_000_000}, "must be an aware datetime, not int"),
        ({"at": datetime(2400, 1, 1, tzinfo=UTC)}, "later than 2200-01-01T00:00:00Z"),
        ({"delay": -1}, "above 0 seconds"),
        ({"delay": float("nan")}, "above 0 seconds"),
        ({"delay": True}, "must be seconds or a timedelta, not bool"),
        ({"delay": "5"}, "must be seconds or a timedelta, not str"),
        ({"delay": 1e12}, "at most 1,000,000,000"),
        ({"delay": 5, "at": datetime(2100, 1, 1, tzinfo=UTC)}, "give delay or at, not both"),
        ({"debounce_key": "k"}, "debounce_key needs a delay"),
        ({"debounce_key": "k", "dedupe_key": "k", "delay": 1}, "give dedupe_key, which keeps the first job, or"),
        ({"delay": 60, "expires": datetime.now(UTC) + timedelta(seconds=30)}, "before it is due"),
    ],
)
async def test_what_can_be_no_time_is_refused_and_nothing_is_scheduled(
    jobs: JobService, connection: Connection, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(JobService.Error, match=told) as caught:
        await jobs.submit("note", "x", **options)
    assert caught.value.reason == "Validation"
    assert (await state_of(connection, jobs))["messages"] == 0


async def test_a_payload_is_checked_when_it_is_submitted(jobs: JobService, connection: Connection) -> None:
    @jobs.handler("number")
    async def number(payload: int) -> int:
        return payload

    with pytest.raises(JobService.Error, match="the payload of number is invalid"):
        await jobs.submit("number", "seven", delay=10)
    assert (await state_of(connection, jobs))["messages"] == 0


async def test_jobs_of_one_entity_that_are_due_together_run_in_the_order_submitted(jobs: JobService, ran: Ran) -> None:
    at = now() + timedelta(seconds=0.7)
    ids = [await jobs.submit("note", n, at=at, entity="one") for n in range(20)]
    async with jobs.worker():
        assert await jobs.results(ids) == list(range(20))
    assert ran.payloads == list(range(20))


async def test_the_request_context_travels_through_the_delay(jobs: JobService) -> None:
    seen = []

    @jobs.handler("look")
    async def look(payload: object, ctx: JobService.Context) -> None:
        seen.append((ctx.tenant_id, ctx.request_id, ctx.entity, ctx.priority))

    with jobs.request_context(tenant_id="acme", request_id="r-1"):
        job_id = await jobs.submit("look", None, delay=0.2, entity="e.1", priority="low")
    async with jobs.worker():
        await jobs.result(job_id)
    assert seen == [("acme", "r-1", "e.1", "low")]


async def test_a_list_is_a_batch_whose_jobs_are_due_together(jobs: JobService, ran: Ran) -> None:
    told: list[int] = []
    ids = await jobs.submit("note", list(range(1500)), delay=6, priority="critical", on_queued=told.append)
    assert told == [1000, 1500]
    assert len(set(ids)) == 1500
    assert all(job_id.startswith("at-") for job_id in ids)
    assert ids[0].batch_id is not None
    async with jobs.worker():
        batch = await jobs.batch(ids[0].batch_id)
        assert (batch.total, batch.counts["queued"], list(batch.ids)) == (1500, 1500, list(ids))
        assert await jobs.results(ids, timeout=60) == list(range(1500))
        assert (await jobs.batch(ids[0].batch_id)).counts["complete"] == 1500
    assert sorted(ran.payloads) == list(range(1500))


async def test_delayed_and_other_jobs_can_be_submitted_together(jobs: JobService, ran: Ran) -> None:
    ids = await jobs.submit_payloads(
        [
            JobService.Payload(type="note", payload="later", delay=0.4, priority="high"),
            JobService.Payload(type="note", payload="latest", delay=0.8),
            JobService.Payload(type="note", payload="now"),
        ]
    )
    assert [job_id.partition("-")[0] for job_id in ids] == ["at", "at", "normal"]
    async with jobs.worker():
        assert await jobs.results(ids) == ["later", "latest", "now"]
    assert ran.payloads == ["now", "later", "latest"]


async def test_a_list_with_what_cannot_be_scheduled_schedules_nothing(jobs: JobService, connection: Connection) -> None:
    with pytest.raises(JobService.Error, match="item 1: it is too large for its queue"):
        await jobs.submit("note", ["small", "x" * (892 * 1024)], delay=5)
    with pytest.raises(JobService.Error, match="item 0: debounce_key is for single jobs"):
        await jobs.submit("note", ["a", "b"], delay=5, debounce_key="k")
    with pytest.raises(JobService.Error, match="too large for a schedule"):
        await jobs.submit("note", "x" * (892 * 1024), delay=5)
    assert (await state_of(connection, jobs))["messages"] == 0


async def test_the_largest_job_that_can_be_scheduled_is_run(jobs: JobService, ran: Ran) -> None:
    entity, payload = "é" * 150, "x" * (892 * 1024 - 3000)
    async with jobs.worker():
        job_id = await jobs.submit("note", payload, delay=0.2, entity=entity)
        after = await jobs.submit("note", "after", delay=0.3, entity=entity)
        # As a result it would be refused, being larger than an entry may be: here it is what the handler was given.
        await eventually(lambda: ran.ids[:2] == [job_id, after])


# -- dedupe keys


async def test_a_key_submitted_again_schedules_nothing_before_and_after_it_fired(
    jobs: JobService, ran: Ran, connection: Connection
) -> None:
    first = await jobs.submit("note", 1, delay=0.5, dedupe_key="k")
    again = await jobs.submit("note", 2, delay=9, dedupe_key="k")
    assert (again, again.duplicate, first.duplicate) == (first, True, False)
    async with jobs.worker():
        assert await jobs.result(first) == 1
        after = await jobs.submit("note", 3, delay=0.1, dedupe_key="k")
        assert (after, after.duplicate) == (first, True)
        with jobs.request_context(tenant_id="other"):
            other = await jobs.submit("note", 4, delay=0.1, dedupe_key="k")
        assert not other.duplicate
        assert await jobs.result(other) == 4
    assert ran.payloads == [1, 4]


async def test_a_key_holds_over_all_priorities_and_apart_from_jobs_without_a_delay(jobs: JobService, ran: Ran) -> None:
    first = await jobs.submit("note", 1, delay=600, dedupe_key="k", priority="high")
    again = await jobs.submit("note", 2, delay=600, dedupe_key="k", priority="low")
    assert (again, again.duplicate) == (first, True)
    assert (await jobs.status(first)).priority == "high"
    at_once = await jobs.submit("note", 3, dedupe_key="k", priority="high")
    assert (at_once.duplicate, at_once == first) == (False, False)
    saved = await jobs.submit("note", 4, delay=600, debounce_key="d", priority="high")
    assert await jobs.submit("note", 5, delay=600, debounce_key="d", priority="low") == saved
    assert (await jobs.status(saved)).priority == "low"


async def test_the_same_key_from_many_at_once_is_one_job(jobs: JobService, ran: Ran) -> None:
    ids = await asyncio.gather(*(jobs.submit("note", n, delay=0.5, dedupe_key="k") for n in range(30)))
    assert len(set(ids)) == 1
    assert sum(not job_id.duplicate for job_id in ids) == 1
    async with jobs.worker():
        winner = await jobs.result(ids[0])
    assert ran.payloads == [winner]


async def test_a_keyed_list_submitted_again_schedules_only_what_is_new(jobs: JobService, ran: Ran) -> None:
    first = await jobs.submit("note", list(range(700)), delay=1, dedupe_key="list")
    again = await jobs.submit("note", list(range(705)), delay=1, dedupe_key="list")
    assert again[:700] == first
    assert [job_id.duplicate for job_id in again] == [True] * 700 + [False] * 5
    async with jobs.worker():
        await jobs.results(again, timeout=60)
    assert sorted(ran.payloads) == list(range(705))


# -- debounce


async def test_of_debounced_jobs_the_last_one_runs_under_the_id_of_the_first(
    jobs: JobService, ran: Ran, connection: Connection
) -> None:
    ids = [await jobs.submit("note", n, delay=0.6, debounce_key="save", entity=f"e{n}") for n in range(5)]
    assert len(set(ids)) == 1
    status = await jobs.status(ids[0])
    assert (status.entity, len(status.history)) == ("e4", 1)
    assert sum("debounce" in subject for subject in (await state_of(connection, jobs))["subjects"]) == 1
    async with jobs.worker():
        assert await jobs.result(ids[0]) == 4
        later = await jobs.submit("note", 5, delay=0.1, debounce_key="save")
        assert later != ids[0]
        assert await jobs.result(later) == 5
    assert ran.payloads == [4, 5]


async def test_debounced_from_many_at_once_one_job_runs_and_it_is_the_last(jobs: JobService, ran: Ran) -> None:
    async def save(n: int) -> str:
        return await jobs.submit("note", n, delay=1.5, debounce_key="save")

    ids = await asyncio.gather(*(save(n) for n in range(12)))
    last = await save(99)
    assert set(ids) == {last}
    async with jobs.worker():
        assert await jobs.result(last) == 99
    assert ran.payloads == [99]


async def test_after_a_cancel_a_debounced_job_is_another_one_and_runs(jobs: JobService, ran: Ran) -> None:
    first = await jobs.submit("note", 1, delay=0.5, debounce_key="save")
    await jobs.cancel(first)
    second = await jobs.submit("note", 2, delay=0.5, debounce_key="save")
    assert second != first
    async with jobs.worker():
        assert await jobs.result(second) == 2
    assert (await jobs.status(first)).status is Status.CANCELLED
    assert ran.payloads == [2]


async def test_a_debounced_job_that_ends_before_its_submit_does_runs_once(
    jobs: JobService, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, replace = await jobs.submit("note", 1, delay=600, debounce_key="k"), Schedules.replace

    async def slowly(self: Schedules, *what: Any) -> None:
        await replace(self, *what)
        await jobs.result(first)

    monkeypatch.setattr(Schedules, "replace", slowly)
    async with jobs.worker():
        assert await jobs.submit("note", 2, delay=0.1, debounce_key="k") == first
        await jobs.result(await jobs.submit("note", 3, delay=1))
    assert ran.payloads == [2, 3]


async def test_a_strangers_id_under_a_debounce_key_is_not_taken(jobs: JobService, ran: Ran, plain: Client) -> None:
    namespace = jobs.config.namespace
    place = f"debounce.{hashlib.sha256(b'default/note/k').hexdigest()[:32]}"
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": f"{namespace}.due.low.e.note"}
    await plain.jetstream().publish(f"{namespace}.at.{place}", b"1", headers={**headers, "Jsjobs-Id": "a b c d e"})
    job_id = await jobs.submit("note", "mine", delay=0.3, debounce_key="k")
    async with jobs.worker():
        assert await jobs.result(job_id) == "mine"


async def test_a_cancelled_entry_ages_though_another_job_has_its_schedules_place(
    jobs: JobService, plain: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await jobs.submit("note", 1, delay=600, debounce_key="k")

    async def dies(*_: object) -> None:
        raise JobService.Error("RunnerUnavailable", "the caller is gone")

    with monkeypatch.context() as crashed:
        crashed.setattr("jsjobs.jetstream.schedules.store.Schedules.remove", dies)
        await jobs.cancel(first)
    second = await jobs.submit("note", 2, delay=600, debounce_key="k")
    assert second != first
    entry = await plain.jetstream().get_last_msg(f"KV_{jobs.config.namespace}", f"$KV.{jobs.config.namespace}.{first}")
    assert "Nats-TTL" in (entry.headers or {})
    assert (await jobs.status(second)).status is Status.QUEUED


# -- cancelling


async def test_a_cancelled_delayed_job_never_fires_and_its_entry_ages(
    jobs: JobService, ran: Ran, connection: Connection, plain: Client
) -> None:
    job_id = await jobs.submit("note", "x", delay=0.6)
    status = await jobs.cancel(job_id)
    assert [item.status for item in status.history] == [Status.QUEUED, Status.CANCELLED]
    subjects = (await state_of(connection, jobs))["subjects"]
    assert not any(".due." in subject for subject in subjects)
    entry = await plain.jetstream().get_last_msg(f"KV_{jobs.config.namespace}", f"$KV.{jobs.config.namespace}.{job_id}")
    assert entry.headers is not None
    assert entry.headers["Nats-TTL"] == f"{int(jobs.config.result_ttl)}s"
    behind, names = await jobs.submit("note", "behind", delay=1), Names(jobs.config.namespace)

    async def fired() -> list[str]:
        messages = stored(connection, names.queue(Queue(JobService.Priority.NORMAL, Lane.PARALLEL)))
        return [read_stored_job(names, message).job_id async for message in messages]

    assert await eventually(fired) == [behind]
    async with jobs.worker():
        assert await jobs.result(behind) == "behind"
    assert ran.payloads == ["behind"]
    with pytest.raises(JobService.Error) as caught:
        await jobs.cancel(job_id)
    assert caught.value.reason == "AlreadyCancelled"


async def test_a_job_that_fired_and_waits_is_cancelled_too(jobs: JobService, ran: Ran, connection: Connection) -> None:
    job_id = await jobs.submit("note", "x", delay=0.1)

    async def fired() -> bool:
        return (await state_of(connection, jobs, "NORMAL_PARALLEL"))["messages"] == 1

    await eventually(fired)
    await jobs.cancel(job_id)
    async with jobs.worker():
        assert await jobs.result(await jobs.submit("note", "behind")) == "behind"
        await eventually(lambda: _is_empty(connection, jobs))
    assert ran.payloads == ["behind"]


async def test_a_raw_publishers_delayed_job_was_created_when_it_fell_due(
    jobs: JobService, connection: Connection, ran: Ran
) -> None:
    """While it waits its schedule tells when it was published; what fires has no memory of that."""
    namespace, due, begin = jobs.config.namespace, now() + timedelta(seconds=1.5), now()
    header = f"Nats-Schedule: @at {rfc3339(due)}\r\nNats-Schedule-Target: {namespace}.due.low.e.note\r\n"
    block = f"NATS/1.0\r\n{header}Jsjobs-Id: at-raw\r\n\r\n".encode()
    await connection.ask(f"{namespace}.at.at-raw".encode(), b'"raw"', header=block)
    waits = await jobs.status("at-raw")
    assert begin - timedelta(seconds=1) < waits.created_at < due
    by_library = await jobs.submit("note", "library", priority="low", at=due)
    async with jobs.worker():
        await jobs.results(["at-raw", by_library], timeout=20)
    assert (await jobs.status("at-raw")).created_at >= due
    assert begin - timedelta(seconds=1) < (await jobs.status(by_library)).created_at < due


async def test_a_raw_publishers_time_to_live_takes_its_delayed_job_away(
    jobs: JobService, connection: Connection
) -> None:
    namespace = jobs.config.namespace
    header = f"Nats-Schedule: @at 2199-01-01T00:00:00Z\r\nNats-Schedule-Target: {namespace}.due.low.e.note\r\n"
    block = f"NATS/1.0\r\n{header}Jsjobs-Id: at-raw\r\nNats-TTL: 1s\r\n\r\n".encode()
    await connection.ask(f"{namespace}.at.at-raw".encode(), b'"raw"', header=block)
    assert (await jobs.status("at-raw")).status == "queued"

    async def is_gone() -> bool:
        return (await state_of(connection, jobs))["messages"] == 0

    await eventually(is_gone)
    with pytest.raises(JobService.Error, match="job at-raw is not known"):
        await jobs.status("at-raw")


async def test_an_unknown_id_costs_no_look_through_a_whole_queue(jobs: JobService, connection: Connection) -> None:
    """A given id that has no entry is looked for among the messages, up to 16 MiB of a queue and a batch of 4 MiB."""
    namespace, large = jobs.config.namespace, b'"%b"' % (b"x" * 800_000)
    known = {name: f"replay-1-{name}" for name in ("first", "early", "late")}

    async def put(name: str, spelled: str) -> None:
        """As a replay: its queue sources it, with the mark by which its id is believed."""
        before = (await state_of(connection, jobs, "LOW"))["messages"]
        header = f"NATS/1.0\r\n{spelled}: {known[name]}\r\n\r\n"
        await connection.ask(f"{namespace}.due.low.e.note".encode(), b"1", header=header.encode())

        async def is_there() -> bool:
            return (await state_of(connection, jobs, "LOW"))["messages"] == before + 1

        await eventually(is_there)

    async def put_large(count: int) -> None:
        for _ in range(count):
            await connection.ask(f"{namespace}.low.e.note".encode(), large)

    await put("first", "Jsjobs-Id")
    await put_large(10)
    await put("early", "jsjobs-ID")
    await put_large(20)
    await put("late", "Jsjobs-Id")
    # As a router does, once the queue has them.
    await call(connection, f"STREAM.PURGE.{jobs.config.namespace.upper()}_SCHEDULE")
    assert (await jobs.status(known["first"])).status == (await jobs.status(known["early"])).status == "queued"
    with pytest.raises(JobService.Error, match="job replay-1-late is not known"):
        await jobs.status(known["late"])


async def _is_empty(connection: Connection, jobs: JobService) -> bool:
    return (await state_of(connection, jobs, "NORMAL_PARALLEL"))["messages"] == 0


# -- moving


async def test_a_delayed_job_is_put_off_and_brought_forward(jobs: JobService, ran: Ran) -> None:
    job_id = await jobs.submit("note", "x", delay=0.5)
    moved = await jobs.reschedule(job_id, delay=30)
    assert moved.scheduled_for is not None
    assert moved.scheduled_for > now() + timedelta(seconds=20)
    assert (await jobs.status(job_id)).scheduled_for == moved.scheduled_for
    async with jobs.worker():
        other = await jobs.submit("note", "other", delay=1)
        await jobs.result(other)
        assert ran.payloads == ["other"]
        sooner = await jobs.reschedule(job_id, at=now() + timedelta(seconds=0.3))
        assert await jobs.result(job_id) == "x"
        assert sooner.scheduled_for is not None
        assert ran.at[-1] >= sooner.scheduled_for


async def test_run_now_does_not_wait_and_does_not_run_it_twice(
    jobs: JobService, ran: Ran, connection: Connection
) -> None:
    job_id = await jobs.submit("note", "x", delay=1.2)
    async with jobs.worker():
        await jobs.run_now(job_id)
        assert await jobs.result(job_id, timeout=5) == "x"
        after = await jobs.submit("note", "after", delay=1.5)
        await jobs.result(after)
    assert ran.payloads == ["x", "after"]
    assert not any(".at.at-" in subject for subject in (await state_of(connection, jobs))["subjects"])


@pytest.mark.parametrize("change", [JobService.reschedule, JobService.cancel, JobService.submit])
async def test_an_entry_that_another_writes_first_is_read_and_written_again(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Awaitable[object]]
) -> None:
    job_id = await jobs.submit("note", 1, delay=60, debounce_key="k")
    write, lost = StateStore.write, []

    async def late(self: StateStore, entry: JobStatusResponse, *, expected: int, **options: Any) -> int:
        if not lost:
            before = await self.read(job_id)
            assert before is not None
            assert before.entry is not None
            lost.append(await write(self, before.entry, expected=before.revision))
        return await write(self, entry, expected=expected, **options)

    monkeypatch.setattr(StateStore, "write", late)
    if change is JobService.submit:
        assert await jobs.submit("note", 2, delay=120, debounce_key="k") == job_id
    else:
        await change(jobs, job_id, **({"delay": 120} if change is JobService.reschedule else {}))
    assert lost
    status = await jobs.status(job_id)
    if change is JobService.cancel:
        assert status.status == "cancelled"
    else:
        assert status.scheduled_for is not None
        assert status.scheduled_for > now() + timedelta(seconds=90)


async def test_what_is_not_delayed_any_more_is_not_moved(jobs: JobService, ran: Ran, connection: Connection) -> None:
    job_id = await jobs.submit("note", "x", delay=0.1)

    async def fired() -> bool:
        return (await state_of(connection, jobs, "NORMAL_PARALLEL"))["messages"] == 1

    await eventually(fired)
    for moving in (jobs.reschedule(job_id, delay=5), jobs.run_now(job_id)):
        with pytest.raises(JobService.Error, match="cannot be moved: it is due already, and queued"):
            await moving
    async with jobs.worker():
        await jobs.result(job_id)
    with pytest.raises(JobService.Error, match="cannot be moved: it has ended, as complete"):
        await jobs.run_now(job_id)
    cancelled = await jobs.submit("note", "y", delay=60)
    await jobs.cancel(cancelled)
    with pytest.raises(JobService.Error) as caught:
        await jobs.run_now(cancelled)
    assert caught.value.reason == "AlreadyCancelled"
    plain_id = await jobs.submit("note", "z")
    for unknown in (plain_id, "at-0123456789abcdef"):
        with pytest.raises(JobService.Error, match=r"delayed job .* is not known") as caught:
            await jobs.run_now(unknown)
        assert caught.value.reason == "NotFound"


async def test_a_job_is_not_moved_behind_its_expiry(jobs: JobService) -> None:
    job_id = await jobs.submit("note", "x", delay=10, expires=20)
    with pytest.raises(JobService.Error, match="before it would be due"):
        await jobs.reschedule(job_id, delay=60)
    with pytest.raises(JobService.Error, match="give delay or at"):
        await jobs.reschedule(job_id)
    assert (await jobs.reschedule(job_id, delay=15)).status is Status.QUEUED


# -- without the library


async def test_a_raw_schedule_is_a_job_that_can_be_followed_and_cancelled(
    jobs: JobService, ran: Ran, plain: Client
) -> None:
    namespace = jobs.config.namespace

    async def schedule(name: str, seconds: float) -> None:
        at = (now() + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        headers = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"{namespace}.due.high.c1.note"}
        headers |= {"Jsjobs-Id": name, "Jsjobs-Entity": "c1"}
        await plain.jetstream().publish(f"{namespace}.at.{name}", b'"raw"', headers=headers)

    await schedule("at-mine-1", 0.8)
    await schedule("at-mine-2", 0.8)
    status = await jobs.status("at-mine-1")
    assert (status.status, status.type, status.priority, status.entity) == (Status.QUEUED, "note", "high", "c1")
    assert status.scheduled_for is not None
    assert (await jobs.cancel("at-mine-2")).status is Status.CANCELLED
    async with jobs.worker():
        assert await jobs.result("at-mine-1") == "raw"
    assert ran.ids == ["at-mine-1"]
