"""Check arguments that no type checker saw: a clear error now instead of a puzzling one later."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from jsjobs.model.errors import InvalidItem, JobError, Reason, clipped

T = TypeVar("T")

_MAX_PROBLEMS = 20
_MANY = 1000
"""With more problems than this, a payload counts as a stranger's: as Python objects they cost a second and 200 MB."""
_SOME = 100_000
"""The characters of such a list, as JSON, that are sure to hold the first problems."""
_MAX_PROBLEM = 1000
"""The most characters of a check's message: the check of a handler's own model may say anything."""
_MAX_PLACE = 200
"""The most characters of a problem's place: the names in a payload may have any length."""


def shortened(text: str, most: int) -> str:
    """Return the text in at most `most` characters; where its end is left out, `…` says so."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def checked_text(what: str, value: object) -> str:
    """Return the value itself, if it is a text.

    Raises:
        JobError: `Validation`, naming the type it has instead.
    """
    if not isinstance(value, str):
        raise JobError.from_validation(f"{what} must be a string, not {type(value).__name__}")
    return value


def checked_kind(what: str, value: T | None, kind: type[T]) -> T | None:
    """Return the value itself, if it is None or of the given kind.

    Raises:
        JobError: `Validation`, naming the type it has instead.
    """
    if value is not None and not isinstance(value, kind):
        raise JobError.from_validation(f"{what} must be a {kind.__qualname__}, not {type(value).__name__}")
    return value


def checked_timeout(value: object) -> float:
    """Return the seconds to wait, if they are a number that is zero or more; infinity is allowed.

    Raises:
        JobError: `Validation`, naming what was given instead.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # refuses NaN too
        raise JobError.from_validation(f"the timeout must be seconds, zero or more, not {str(value)[:40]!r}")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def checked_list(what: str, value: Iterable[T]) -> list[T]:
    """Return the items as a list, if the value is a collection; a single text or mapping is not one.

    Raises:
        JobError: `Validation`, naming the type it has instead.
    """
    if not isinstance(value, str | bytes | dict):
        with suppress(TypeError):
            return list(value)
    raise JobError.from_validation(f"{what} must be a list, not {type(value).__name__}")


def problems(error: ValidationError) -> str:
    """Return pydantic's findings in one line, without the values, which may be anything."""
    found = [_problem(item["type"], item["loc"], item["msg"]) for item in _first(error)]
    left = error.error_count() - len(found)
    return "; ".join([*found, f"and {left} more"] if left else found)


def invalid_item(index: int, error: Exception, text: str) -> InvalidItem:
    """Return a description of what is wrong with an item of a list.

    Args:
        index: Its place in the list.
        error: What its check raised.
        text: The message for an error that is not a `JobError`.
    """
    if not isinstance(error, JobError):
        return InvalidItem(index, Reason.VALIDATION, clipped(text), _field(error), cause=error)
    return InvalidItem(index, error.reason, clipped(error.message), _field(error.cause), error.job_id, error.cause)


def _field(cause: object) -> str | None:
    """Return the first place where pydantic found something wrong."""
    found = _first(cause) if isinstance(cause, ValidationError) else []
    return (_place(found[0]["loc"]) or None) if found else None


def _first(error: ValidationError) -> list[Any]:
    if error.error_count() <= _MANY:
        return error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_PROBLEMS]
    try:
        listed = error.json(include_url=False, include_input=False, include_context=False)
    except (PydanticSerializationError, ValueError):
        return []  # a place that cannot be written as JSON
    items = from_json(listed[:_SOME], allow_partial=True)[:_MAX_PROBLEMS]
    return [item for item in items if item.keys() >= {"type", "loc", "msg"}]


def _problem(kind: str, place: Iterable[int | str], text: str) -> str:
    text = shortened(text, _MAX_PROBLEM)
    where = _place(place)
    if kind != "value_error":
        return f"{where or 'value'}: {text}"
    # The message of a check of ours, or of a handler's own model.
    text = text.removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _place(place: Iterable[int | str]) -> str:
    where = ".".join(str(part) for part in place)
    return where if len(where) <= _MAX_PLACE else f"{where[:_MAX_PLACE]}…"
