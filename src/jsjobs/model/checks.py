"""What callers pass that no type checker saw: a clear error instead of a puzzling one later."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError

from jsjobs.model.errors import JobError

T = TypeVar("T")

_MAX_PROBLEMS = 20


def checked_text(what: str, value: object) -> str:
    """The value itself, if it is a text.

    Raises:
        JobError: `Validation`, naming what it is instead.
    """
    if not isinstance(value, str):
        raise JobError.from_validation(f"{what} must be a text, not {type(value).__name__}")
    return value


def checked_kind(what: str, value: T | None, kind: type[T]) -> T | None:
    """The value itself, if there is none or it is of a kind.

    Raises:
        JobError: `Validation`, naming what it is instead.
    """
    if value is not None and not isinstance(value, kind):
        raise JobError.from_validation(f"{what} must be a {kind.__qualname__}, not {type(value).__name__}")
    return value


def checked_timeout(value: object) -> float:
    """The seconds to wait, if they are a number that is none below zero; infinity is one.

    Raises:
        JobError: `Validation`, naming what it is instead.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # as NaN is not
        raise JobError.from_validation(f"the timeout must be seconds, zero or more, not {str(value)[:40]!r}")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def checked_list(what: str, value: Iterable[T]) -> list[T]:
    """The items, if it is a collection of them; a single text or mapping is none.

    Raises:
        JobError: `Validation`, naming what it is instead.
    """
    if not isinstance(value, str | bytes | dict):
        with suppress(TypeError):
            return list(value)
    raise JobError.from_validation(f"{what} must be a list of them, not {type(value).__name__}")


def problems(error: ValidationError) -> str:
    """What pydantic found, in one line; without the values, which may be anything."""
    items = error.errors(include_url=False, include_input=False, include_context=False)
    found = [_problem(item["type"], item["loc"], item["msg"]) for item in items]
    more = f"; and {len(found) - _MAX_PROBLEMS} more" if len(found) > _MAX_PROBLEMS else ""
    return "; ".join(found[:_MAX_PROBLEMS]) + more


def _problem(kind: str, place: tuple[int | str, ...], text: str) -> str:
    where = ".".join(str(part) for part in place)
    if kind != "value_error":
        return f"{where or 'value'}: {text}"
    # What a check of ours, or of a handler's own model, said.
    text = text.removeprefix("Value error, ")
    return f"{where}: {text}" if where else text
