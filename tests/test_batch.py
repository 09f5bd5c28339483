"""A list from its submit to its counts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client
from pydantic import BaseModel, Field

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.model.errors import InvalidBatch, JobError
from jsjobs.model.ids import JobId
from jsjobs.validating import SIDE_BY_SIDE


class Order(BaseModel):
    number: int = Field(ge=1)


async def stored(connection: Connection, jobs: JobService, priority: str = "normal") -> int:
    stream = f"{jobs.config.namespace.upper()}_{priority.upper()}"
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


async def test_duplicates_belong_to_both_lists(jobs: JobService) -> None:
    first = await jobs.submit("t", [1, 2], dedupe_key="k")
    again = await jobs.submit("t", [1, 2, 3], dedupe_key="k")
    assert [job_id.duplicate for job_id in again] == [True, True, False]
    status = await jobs.batch(str(again[0].batch_id))
    assert status.ids == tuple(again)
    assert set(first) < set(status.ids)
    assert again[0].batch_id != first[0].batch_id


async def test_of_a_list_refused_half_way_what_was_queued_is_recorded(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]], connection: Connection
) -> None:
    config = settings_of(capacity=1500, pools={"low": 1})
    await deploy(config)
    async with JobService(config) as jobs:
        with pytest.raises(
            JobError, match=r"full.*nothing more was queued.*1000 jobs of the list are queued.*; batch (\w+) names"
        ) as caught:
            await jobs.submit("t", list(range(3000)), priority="low")
        batch_id = caught.value.message.partition("; batch ")[2].partition(" ")[0]
        status = await jobs.batch(batch_id)
        assert (status.total, status.counts["queued"]) == (1000, 1000)
        # Where some were queued before, the others go one by one, until the queue is full.
        await jobs.submit_payloads([JobService.Payload(type="k", priority="low", dedupe_key="k:1200")])
        with pytest.raises(JobError, match=r"1500 jobs of the list are queued.*; batch (\w+) names") as caught:
            await jobs.submit("k", list(range(1990)), priority="low", dedupe_key="k")
        batch_id = caught.value.message.partition("; batch ")[2].partition(" ")[0]
        assert (await jobs.batch(batch_id)).counts["queued"] == 1500
        assert await stored(connection, jobs, "low") == 2500


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
    with pytest.raises(JobError, match=f"no batch {ids[0].batch_id} is known"):
        await jobs.batch(str(ids[0].batch_id))


async def test_a_foreign_header_makes_no_record(jobs: JobService, plain: Client) -> None:
    subject = f"{jobs.config.namespace}.normal.e.t"
    await plain.jetstream().publish(subject, b"1", headers={"Jsjobs-Batch": "foreign"})
    with pytest.raises(JobError, match="no batch foreign is known"):
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
    with pytest.raises(InvalidBatch, match=r"2 of 2500 items cannot be used: item 0: .*; item 2: ") as caught:
        await jobs.submit("order", items)
    assert set(caught.value.errors) == {0, 2}
    free = [1] * 2500 + [float("nan"), object(), "x" * 917_504, "\ud800", 1]
    with pytest.raises(InvalidBatch) as caught:
        await jobs.submit("free", free)
    assert set(caught.value.errors) == {2500, 2501, 2502, 2503}
    assert "too large for its queue" in caught.value.errors[2502]
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


# -- validate_batch


async def test_a_validated_batch_is_what_the_validator_made_of_it(jobs: JobService) -> None:
    async def checked(item: int) -> int | bool | None:
        await asyncio.sleep(0)
        return {1: None, 2: True}.get(item, item * 10)

    assert await jobs.validate_batch([1, 2, 3], checked) == [1, 2, 30]
    assert await jobs.validate_batch([1, 0], lambda item: item) == [1, 0]
    assert await jobs.validate_batch(({"number": n} for n in (1, 2)), Order) == [Order(number=1), Order(number=2)]
    assert await jobs.validate_batch([], Order) == []


async def test_every_item_is_checked_and_all_errors_are_listed(jobs: JobService) -> None:
    async def check(item: int) -> bool:
        await asyncio.sleep(0.001 * (item % 3))
        match item:
            case 3:
                raise ValueError("three")
            case 5:
                raise JobError.from_validation("five")
            case 7:
                return False
            case 9:
                raise KeyError
        return True

    with pytest.raises(InvalidBatch) as caught:
        await jobs.validate_batch(range(12), check)
    assert caught.value.errors == {3: "ValueError: three", 5: "five", 7: "the validator returned False", 9: "KeyError"}
    assert caught.value.reason == "Validation"
    for listed in ("4 of 12 items", "item 3: ValueError: three", "item 9: KeyError"):
        assert listed in caught.value.message
    with pytest.raises(InvalidBatch) as caught:
        await jobs.validate_batch([{"number": 1}, {"number": 0}, 5], Order)
    assert caught.value.errors[1] == "number: Input should be greater than or equal to 1"
    assert set(caught.value.errors) == {1, 2}


async def test_async_validators_run_side_by_side_up_to_a_bound(jobs: JobService) -> None:
    running = peak = 0
    go_on = asyncio.Event()

    async def check(item: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await go_on.wait()
        running -= 1

    checking = asyncio.ensure_future(jobs.validate_batch(range(5 * SIDE_BY_SIDE), check))
    await eventually(lambda: asyncio.sleep(0, running == SIDE_BY_SIDE))
    go_on.set()
    assert await checking == list(range(5 * SIDE_BY_SIDE))
    assert peak == SIDE_BY_SIDE


@pytest.mark.parametrize("items", [5, None, "text", b"bytes", {"a": 1}, object()])
async def test_items_that_are_no_list_are_refused(jobs: JobService, items: object) -> None:
    with pytest.raises(JobError, match="the items must be a list") as caught:
        await jobs.validate_batch(items, Order)
    assert caught.value.reason == "Validation"


@pytest.mark.parametrize("validator", [None, "order", 5])
async def test_what_cannot_be_a_validator_is_refused(jobs: JobService, validator: object) -> None:
    with pytest.raises(JobError, match="the validator must be a function or a pydantic model"):
        await jobs.validate_batch([1], validator)
