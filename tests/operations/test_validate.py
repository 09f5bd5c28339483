"""Checking every item of a list before any of it is submitted."""

import asyncio
import itertools

import pytest
from pydantic import BaseModel, Field, ValidationError

from facts import eventually
from jsjobs import JobService
from jsjobs.model.errors import InvalidBatch, JobError
from jsjobs.operations.validate import SIDE_BY_SIDE


class Order(BaseModel):
    number: int = Field(ge=1)


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
    told = {index: item.message for index, item in caught.value.errors.items()}
    assert told == {3: "ValueError: three", 5: "five", 7: "the validator returned False", 9: "KeyError"}
    assert caught.value.reason == "Validation"
    for listed in ("4 of 12 items", "item 3: ValueError: three", "item 9: KeyError"):
        assert listed in caught.value.message
    with pytest.raises(InvalidBatch) as caught:
        await jobs.validate_batch([{"number": 1}, {"number": 0}, 5], Order)
    assert caught.value.errors[1].message == "number: Input should be greater than or equal to 1"
    assert set(caught.value.errors) == {1, 2}


async def test_an_invalid_item_says_why_where_which_job_and_what_lies_behind(jobs: JobService) -> None:
    class Basket(BaseModel):
        orders: list[Order]

    def check(item: object) -> None:
        match item:
            case "gone":
                raise JobError.from_not_found("its parent is gone", job_id="low-7") from KeyError("parent")
            case "wrong":
                raise ValueError("wrong")
            case "false":
                raise JobError("Timeout", "too slow")
        Basket.model_validate(item)

    items = ["gone", "wrong", "false", {"orders": [{"number": 1}, {"number": 0}]}, {"orders": []}]
    with pytest.raises(InvalidBatch) as caught:
        await jobs.validate_batch(items, check)
    found = caught.value.errors
    assert list(found) == [0, 1, 2, 3]
    assert (found[0].reason, found[0].job_id, found[0].field) == ("NotFound", "low-7", None)
    assert isinstance(found[0].cause, KeyError)
    assert (found[1].reason, found[1].message, str(found[1].cause)) == ("Validation", "ValueError: wrong", "wrong")
    assert (found[2].reason, found[2].message, found[2].cause) == ("Timeout", "too slow", None)
    assert (found[3].reason, found[3].field) == ("Validation", "orders.1.number")
    assert isinstance(found[3].cause, ValidationError)


async def test_what_an_error_says_of_a_list_has_a_bound(jobs: JobService) -> None:
    def check(item: int) -> None:
        raise ValueError("x" * 100_000)

    with pytest.raises(InvalidBatch, match="1000 of 1000 items") as caught:
        await jobs.validate_batch(range(1000), check)
    assert len(caught.value.errors) == 1000
    assert len(caught.value.message) < 500_000
    assert caught.value.message.endswith("; and 900 more")


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
    await eventually(lambda: running == SIDE_BY_SIDE)
    go_on.set()
    assert await checking == list(range(5 * SIDE_BY_SIDE))
    assert peak == SIDE_BY_SIDE


async def test_a_plain_validator_of_a_long_list_lets_other_tasks_run(jobs: JobService) -> None:
    checked, turns = 0, [0]

    def check(item: int) -> None:
        nonlocal checked
        checked += 1

    async def go_on() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(checked)

    beside = asyncio.ensure_future(go_on())
    assert await jobs.validate_batch(range(20_000), check) == list(range(20_000))
    beside.cancel()
    in_a_row = [after - before for before, after in itertools.pairwise([*turns, checked])]
    assert max(in_a_row) <= 1_000
    assert sum(in_a_row) == 20_000


@pytest.mark.parametrize("items", [5, None, "text", b"bytes", {"a": 1}, object()])
async def test_items_that_are_no_list_are_refused(jobs: JobService, items: object) -> None:
    with pytest.raises(JobError, match="the items must be a list") as caught:
        await jobs.validate_batch(items, Order)
    assert caught.value.reason == "Validation"


@pytest.mark.parametrize("validator", [None, "order", 5])
async def test_what_cannot_be_a_validator_is_refused(jobs: JobService, validator: object) -> None:
    with pytest.raises(JobError, match="the validator must be a function or a pydantic model"):
        await jobs.validate_batch([1], validator)
