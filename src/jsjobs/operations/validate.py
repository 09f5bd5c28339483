"""Check every item of a list before any of it is submitted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from jsjobs.handlers.failure import describe
from jsjobs.model.checks import checked_list, invalid_item, problems
from jsjobs.model.errors import InvalidBatch, InvalidItem, JobError, Reason

SIDE_BY_SIDE = 100
"""Items that an async validator checks at once, at most."""
_IN_A_ROW = 5
"""Items after which each of these lets other tasks run, so that all of them check some hundred items in a row."""

Validator = Callable[[Any], Any] | Callable[[Any], Awaitable[Any]] | type[BaseModel]
"""The check of one item: a plain or async function, or a pydantic model."""


async def validate_all(items: Iterable[Any], validator: Validator) -> list[Any]:
    """Check every item; see `JobService.validate_batch`.

    Raises:
        InvalidBatch: If any item failed, listing all that did.
        JobError: `Validation`, if the items are not a list, or the validator cannot be one.
    """
    given = checked_list("the items", items)
    if not callable(validator):
        raise JobError.from_validation(
            f"the validator must be a function or a pydantic model, not {type(validator).__name__}"
        )
    if inspect.isgeneratorfunction(validator) or inspect.isasyncgenfunction(validator):
        raise JobError.from_validation("the validator is a generator, which nothing consumes: it checks nothing")
    checks, values, errors = enumerate(given), list(given), list[InvalidItem]()
    check = _model_check(validator) if inspect.isclass(validator) and issubclass(validator, BaseModel) else validator
    # Each task takes the next free item, so that slow items hold up no others.
    await asyncio.gather(*(_check_on(checks, check, values, errors) for _ in range(min(SIDE_BY_SIDE, len(given)))))
    if errors:
        raise InvalidBatch(errors, len(given))
    return values


async def _check_on(
    checks: Iterator[tuple[int, Any]], check: Callable[[Any], Any], values: list[Any], errors: list[InvalidItem]
) -> None:
    for count, (index, item) in enumerate(checks, 1):
        if count % _IN_A_ROW == 0:
            await asyncio.sleep(0)
        try:
            value = check(item)
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:  # noqa: BLE001 - a validator may raise anything, and all items are to be checked
            errors.append(invalid_item(index, error, _told(error)))
            continue
        if value is False:
            errors.append(InvalidItem(index, Reason.VALIDATION, "the validator returned False"))
        elif value is not None and value is not True:
            values[index] = value


def _model_check(model: type[BaseModel]) -> Callable[[Any], BaseModel]:
    return model.model_validate


def _told(error: Exception) -> str:
    return problems(error) if isinstance(error, ValidationError) else describe(error)
