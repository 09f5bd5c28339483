"""A list from its submit to its counts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from pydantic import BaseModel, Field, ValidationError

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.errors import InvalidBatch, JobError
from jsjobs.model.job import JobId


class Order(BaseModel):
    number: int = Field(ge=1)


async def stored(connection: Connection, jobs: JobService, priority: str = "normal") -> int:
    stream = f"{jobs.config.namespace.upper()}_{priority.upper()}_PARALLEL"
    return (await call(connection, f"STREAM.INFO.{stream}"))["state"]["messages"]


async def test_a_list_knows_its_batch_and_the_batch_its_jobs(jobs: JobService, plain: Client) -> None:
    @jobs.handler("mixed")
    async def mixed(payload: int, ctx: JobService.Context) -> str | None:
        if payload % 3 == 0:
            raise JobError.from_validation("by three")
        return ctx.batch_id

    told: list[int] = []
    ids = await jobs.submit("mixed", list(range(1200)), on_queued=told.append)
    assert told == [1000, 1200]
    [batch_id] = {job_id.batch_id for job_id in ids}
    single = await jobs.submit("mixed", 1)
    assert (single.batch_id, isinstance(batch_id, str)) == (None, True)
    waiting = await jobs.batch(batch_id)
    assert (waiting.total, waiting.ids, waiting.expired) == (1200, tuple(ids), 0)
    assert waiting.counts == {"queued": 1200, "processing": 0, "complete": 0, "failed": 0, "cancelled": 0}
    await jobs.cancel(ids[1])
    async with jobs.worker():
        outcomes = await jobs.results(ids, timeout=60, return_exceptions=True)
    assert {outcome for outcome in outcomes if isinstance(outcome, str)} == {batch_id}
    ended = await jobs.batch(batch_id)
    assert ended.counts == {"queued": 0, "processing": 0, "complete": 799, "failed": 400, "cancelled": 1}
    assert ended.ended == 1200


async def test_a_list_of_payloads_is_one_batch_over_all_its_priorities(jobs: JobService) -> None:
    payloads = [JobService.Payload(type="t", payload=n, priority=("low", "high")[n % 2]) for n in range(6)]
    ids = await jobs.submit_payloads(payloads)
    status = await jobs.batch(str(ids[0].batch_id))
    assert status.ids == tuple(ids)
    assert [job_id.partition("-")[0] for job_id in status.ids] == ["low", "high"] * 3
    assert await jobs.submit_payloads([]) == []


@pytest.mark.parametrize("delay", [None, 3600])
async def test_receipts_of_a_list_that_was_submitted_before_name_the_batch_that_status_names(
    jobs: JobService, delay: float | None
) -> None:
    first = await jobs.submit("t", [1, 2], dedupe_key="k", delay=delay)
    again = await jobs.submit("t", [1, 2], dedupe_key="k", delay=delay)
    assert again == first
    assert {job_id.batch_id for job_id in again} == {first[0].batch_id}
    more = await jobs.submit("t", [1, 2, 3], dedupe_key="k", delay=delay)
    assert [job_id.duplicate for job_id in more] == [True, True, False]
    assert more[2].batch_id not in {None, first[0].batch_id}
    for job_id in (*again, *more):
        assert (await jobs.status(job_id)).batch_id == job_id.batch_id
    # Duplicates are in the records of both lists.
    assert (await jobs.batch(str(more[2].batch_id))).ids == tuple(more)
    assert (await jobs.batch(str(first[0].batch_id))).ids == tuple(first)


async def test_receipts_agree_with_status_whatever_became_of_the_first(jobs: JobService) -> None:
    @jobs.handler("t")
    async def run(payload: int) -> None: ...

    first = await jobs.submit("t", [1, 2], dedupe_key="k")
    single = await jobs.submit("t", 1, dedupe_key="s:0")
    async with jobs.worker():
        await jobs.results([*first, single], timeout=20)
    again = await jobs.submit("t", [1, 2, 3], dedupe_key="k")
    assert [job_id.batch_id for job_id in again[:2]] == [first[0].batch_id] * 2
    [one, two] = await jobs.submit("t", [1, 2], dedupe_key="s")
    assert (one.duplicate, one.batch_id) == (True, None)  # it was no list's
    assert two.batch_id is not None


async def test_a_batch_has_the_id_that_it_is_given(jobs: JobService, plain: Client) -> None:
    first = await jobs.submit("t", [1, 2], batch_id="import-7")
    assert {job_id.batch_id for job_id in first} == {"import-7"}
    assert (await jobs.status(first[1])).batch_id == "import-7"
    created_at = (await jobs.batch("import-7")).created_at
    more = await jobs.submit_payloads(
        [JobService.Payload(type="t", payload=n, priority=("low", "high")[n % 2]) for n in range(3)]
        + [JobService.Payload(type="t", batch_id="import-7", delay=3600)]
    )
    assert {job_id.batch_id for job_id in more} == {"import-7"}
    batch = await jobs.batch("import-7")
    assert (batch.ids, batch.total, batch.created_at) == ((*first, *more), 6, created_at)
    # A single job says whose it is, and is in no record.
    single = await jobs.submit("t", 1, batch_id="import-7", dedupe_key="one")
    again = await jobs.submit("t", 1, batch_id="another", dedupe_key="one")
    assert (single.batch_id, again.batch_id, again.duplicate) == ("import-7", "import-7", True)
    assert (await jobs.status(single)).batch_id == "import-7"
    assert (await jobs.batch("import-7")).total == 6


async def test_lists_that_are_added_to_a_batch_at_once_are_all_in_its_record(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jsjobs.jetstream.tracking.batches.RUNS_PER_PART", 3)
    forms = [JobService.Payload(type="t", payload=n, priority=("low", "high")[n % 2], batch_id="b") for n in range(8)]
    lists = await asyncio.gather(*(jobs.submit_payloads(forms) for _ in range(8)))
    again = await jobs.submit("t", [1, 2], batch_id="b", dedupe_key="k")
    assert await jobs.submit("t", [1, 2], batch_id="b", dedupe_key="k") == again
    status = await jobs.batch("b")
    assert len(status.ids) == len(set(status.ids)) == status.total == 8 * 8 + 2
    assert set(status.ids) == {job_id for ids in lists for job_id in ids} | set(again)
    for ids in lists:  # each in its order
        places = [status.ids.index(job_id) for job_id in ids]
        assert places == sorted(places)


async def test_a_list_is_one_batch(jobs: JobService, connection: Connection) -> None:
    forms = [JobService.Payload(type="t", batch_id=name) for name in (None, "a", "b", "a", "c")]
    with pytest.raises(InvalidBatch, match="item 2: it names batch b, others a") as caught:
        await jobs.submit_payloads(forms)
    assert {(item.index, item.field) for item in caught.value.errors.values()} == {(2, "batch_id"), (4, "batch_id")}
    for wrong in ("", "a.b", "a b", "x" * 65, "a\n", 7):
        with pytest.raises(JobError, match="batch_id: "):
            await jobs.submit("t", [1], batch_id=wrong)
    assert await stored(connection, jobs) == 0


async def test_of_a_list_refused_half_way_what_was_queued_is_recorded(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]], connection: Connection
) -> None:
    config = settings_of(capacity=1500, pools={"low": 1})
    await deploy(config)
    async with JobService(config) as jobs:
        with pytest.raises(
            JobError, match=r"full.*nothing more was queued.*1000 jobs of the list are queued.*; batch (\w+) holds"
        ) as caught:
            await jobs.submit("t", list(range(3000)), priority="low")
        batch_id = caught.value.message.partition("; batch ")[2].partition(" ")[0]
        status = await jobs.batch(batch_id)
        assert (status.total, status.counts["queued"]) == (1000, 1000)
        # Where some were queued before, the others go one by one, until the queue is full.
        await jobs.submit_payloads([JobService.Payload(type="k", priority="low", dedupe_key="k:1200")])
        with pytest.raises(JobError, match=r"1500 jobs of the list are queued.*; batch (\w+) holds") as caught:
            await jobs.submit("k", list(range(1990)), priority="low", dedupe_key="k")
        batch_id = caught.value.message.partition("; batch ")[2].partition(" ")[0]
        assert (await jobs.batch(batch_id)).counts["queued"] == 1500
        assert await stored(connection, jobs, "low") == 2500


async def test_what_on_queued_raises_is_raised_and_names_the_batch(jobs: JobService) -> None:
    def fails(count: int) -> None:
        raise ZeroDivisionError(count)

    with pytest.raises(ZeroDivisionError) as caught:
        await jobs.submit("t", list(range(1200)), on_queued=fails)
    [note] = caught.value.__notes__
    assert (await jobs.batch(note.split()[1])).counts["queued"] == 1000


async def test_a_record_that_cannot_be_stored_is_a_warning_and_no_failure(
    jobs: JobService, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    stream = f"KV_{jobs.config.namespace}"
    config = (await call(connection, f"STREAM.INFO.{stream}"))["config"]
    await call(connection, f"STREAM.UPDATE.{stream}", {**config, "max_msg_size": 10})
    with caplog.at_level(logging.WARNING, "jsjobs"):
        ids = await jobs.submit("t", [1, 2])
    assert [isinstance(job_id, JobId) for job_id in ids] == [True, True]
    assert f"batch {ids[0].batch_id} is queued, its record could not be stored" in caplog.text
    assert await stored(connection, jobs) == 2
    with pytest.raises(JobError, match=f"batch {ids[0].batch_id} is not known"):
        await jobs.batch(str(ids[0].batch_id))


PUBLISHER = """
authorization {
  users: [
    { user: all, password: pw }
    { user: publisher, password: pw, permissions: {
        publish: ["jobs.parallel.normal.*.>", "$JS.API.DIRECT.GET.>"], subscribe: ["_INBOX.>"] } }
  ]
}
"""


async def test_who_may_publish_jobs_alone_submits_lists_without_a_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with NatsServer(tmp_path, config=PUBLISHER) as server:
        given = {"nats_url": server.url, "nats_password": "pw", "queue_bytes": 2**24, "timeout": 60}
        config = JobService.Config(**given, nats_user="all")
        few_rights = JobService.Config(**given, nats_user="publisher")
        async with JobService(config) as all_rights, JobService(few_rights) as jobs, asyncio.timeout(30):
            await TopologyReconciler(all_rights.connection, Names("jobs"), config).apply()
            all_rights.register_handler("t", lambda payload: payload)
            ids = await jobs.submit("t", [1, 2])
            assert (await jobs.status(ids[1])).batch_id == ids[1].batch_id
            assert 'Permissions Violation for Publish to "$KV.jobs.batch.' in caplog.text
            with pytest.raises(JobError, match="is not known"):
                await jobs.batch(str(ids[0].batch_id))
            waiting = asyncio.ensure_future(jobs.results(ids))  # without hints, which it may not subscribe to either
            await eventually(lambda: "Violation for Subscription" in caplog.text)
            async with all_rights.worker():
                assert await waiting == [1, 2]
                assert [update async for update in jobs.progress(ids[0])] == []


async def test_a_foreign_header_makes_no_record(jobs: JobService, plain: Client) -> None:
    subject = f"{jobs.config.namespace}.normal.e.t"
    await plain.jetstream().publish(subject, b"1", headers={"Jsjobs-Batch": "foreign"})
    with pytest.raises(JobError, match="batch foreign is not known"):
        await jobs.batch("foreign")


async def test_a_batch_of_another_namespace_is_not_found(
    jobs: JobService, settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]
) -> None:
    other = settings_of(namespace=f"{jobs.config.namespace}b")
    await deploy(other)
    ids = await jobs.submit("t", [1])
    async with JobService(other) as elsewhere:
        with pytest.raises(JobError) as caught:
            await elsewhere.batch(str(ids[0].batch_id))
    assert caught.value.reason == "NotFound"


async def test_all_bad_items_of_a_list_are_named_and_none_is_queued(jobs: JobService, connection: Connection) -> None:
    @jobs.handler("order")
    async def order(payload: Order) -> None: ...

    items = [{"number": n} for n in range(2500)]
    items[2] = {"number": "x"}  # zero is wrong too
    with pytest.raises(InvalidBatch, match=r"2 of 2500 items are invalid: item 0: .*; item 2: ") as caught:
        await jobs.submit("order", items)
    assert [(item.index, item.field, item.reason) for item in caught.value.errors.values()] == [
        (0, "number", "Validation"),
        (2, "number", "Validation"),
    ]
    assert all(isinstance(item.cause, ValidationError) for item in caught.value.errors.values())
    free = [1] * 2500 + [float("nan"), object(), "x" * 917_504, "\ud800", 1]
    with pytest.raises(InvalidBatch) as caught:
        await jobs.submit("free", free)
    assert set(caught.value.errors) == {2500, 2501, 2502, 2503}
    assert "too large for its queue" in caught.value.errors[2502].message
    forms = [JobService.Payload(type="free", payload=1), "no form", JobService.Payload(type="a b\r\nPUB x 0\r\n")]
    with pytest.raises(InvalidBatch) as caught:
        await jobs.submit_payloads(forms)
    assert set(caught.value.errors) == {1, 2}
    wrong = [jobs.submit_payloads(given) for given in (5, None, "text", JobService.Payload(type="t"))]
    wrong += [jobs.submit("t", [1], on_queued=5), jobs.submit_payloads([], on_queued="print")]
    for attempt in wrong:
        with pytest.raises(JobError) as refused:
            await attempt
        assert refused.value.reason == "Validation"
    assert await stored(connection, jobs) == 0


async def test_the_largest_item_of_a_list_is_queued_and_one_byte_more_is_named(
    jobs: JobService, connection: Connection
) -> None:
    room = 917_504
    while True:  # down to what is just refused no more
        try:
            ids = await jobs.submit("t", ["x" * room, "small"])
            break
        except InvalidBatch:
            room -= 1 if room < 917_504 - 300 else 100
    assert len(ids) == 2
    with pytest.raises(InvalidBatch, match="item 0"):
        await jobs.submit("t", ["x" * (room + 101), "small"])
    assert await stored(connection, jobs) == 2
