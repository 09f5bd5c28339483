"""Check whether a handler's result is data, or something that is still to be computed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from inspect import iscoroutine
from types import NoneType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from jsjobs.model.errors import JobError

SIMPLE = frozenset({NoneType, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID})
"""Types of values that are data and hold nothing else."""

_LIST = "which nothing has consumed: return a list of what it yields"
_UNFINISHED = {
    "__next__": _LIST,
    "__anext__": _LIST,
    "__await__": "which nothing has awaited: await it in the handler",
}
"""Attributes of types whose objects are still to be computed, each with what to do about them."""
_Reader = Callable[[Any], Iterable[Any]]


def check_data(value: Any, what: str) -> None:
    """Check that a result is data: writing it must not run a generator, which may be slow, or never end.

    Args:
        value: What the handler returned; lists, dicts, models and dataclasses are searched.
        what: What to call it in the error.

    Raises:
        JobError: `Validation`, if it is, or holds, an iterator or something to be awaited.
    """
    pending, seen, readers = [value], set[int](), dict[type, _Reader]()
    while pending:
        one = pending.pop()
        kind = type(one)
        if kind in SIMPLE or id(one) in seen:
            continue
        read = readers.get(kind)
        if read is None:
            for attribute, remedy in _UNFINISHED.items():
                if hasattr(kind, attribute):
                    discard(one)
                    holds = "is" if one is value else "holds"
                    raise JobError.from_validation(f"{what} {holds} {_named(kind)}, {remedy}")
            read = readers[kind] = _reader(kind)
        parts = read(one)
        if not SIMPLE.issuperset(map(type, parts)):
            seen.add(id(one))
            pending.extend(parts)


def discard(value: Any) -> None:
    """Close a coroutine that nobody will await; otherwise Python warns about it wherever it is collected."""
    if iscoroutine(value):
        with suppress(Exception):
            value.close()


def _named(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[:1].lower() in set('aeiou') else 'a'} {name}"


def _reader(kind: type) -> _Reader:
    """Return the function that lists the parts of a type's objects."""
    if issubclass(kind, dict):
        return dict.values
    if issubclass(kind, list | tuple | set | frozenset | deque):
        return _itself
    if issubclass(kind, BaseModel):
        return _of_model
    return _of_dataclass if dataclasses.is_dataclass(kind) else _nothing


def _of_model(value: BaseModel) -> list[Any]:
    return [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values()]


def _of_dataclass(value: Any) -> list[Any]:
    return [getattr(value, field.name, None) for field in dataclasses.fields(value)]


def _itself(value: Any) -> Any:
    return value


def _nothing(_value: Any) -> tuple[()]:
    return ()
