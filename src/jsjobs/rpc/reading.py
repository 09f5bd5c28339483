"""Read requests, which are untrusted input."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from jsjobs.jetstream.micro.service import ServiceRequest
from jsjobs.jetstream.protocol.headers import LEVELS_ABOVE, check_numbers, check_sizes, encode_json
from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.payload import Written
from jsjobs.rpc.forms import SubmitRequest

F = TypeVar("F", bound=BaseModel)


def _nested(form: Any, levels: int) -> Any:
    return form if not levels else _nested(list[form], levels - 1)


_SUBMIT: TypeAdapter[Any] = TypeAdapter(_nested(SubmitRequest, LEVELS_ABOVE))
"""Reads a request nested as deep as the levels that a payload must leave room for: no second check is needed."""


def read_form(form: type[F], request: ServiceRequest) -> F:
    """Read the body of a request.

    Raises:
        JobError: `Validation`, if the body is not a JSON object of this form; unknown keys are refused too.
    """
    try:
        found = form.model_validate_json(request.body, strict=True)
    except ValidationError as error:
        raise JobError.from_validation(f"the request is invalid: {problems(error)}", cause=error) from None
    check_sizes(request.body, "the request")
    return found


def read_submit(request: ServiceRequest) -> tuple[SubmitRequest, Written]:
    """Read a submit, and return it without its payload, and the payload as JSON.

    The payload may be large, of hundreds of thousands of values, and the event loop waits meanwhile. So each value is
    read once and written once, and nothing looks at the values one by one in Python.

    Raises:
        JobError: `Validation`, where `read_form` raises it, or if the payload could not be read again.
    """
    with _no_collection():
        form = _read_submit(request)
        written = Written(_as_json(form))
        # The payload is gone before the next garbage collection, which would look at each of its values.
        return form.model_copy(update={"payload": None}), written


def _read_submit(request: ServiceRequest) -> SubmitRequest:
    try:
        found = _SUBMIT.validate_json(b"[" * LEVELS_ABOVE + request.body + b"]" * LEVELS_ABOVE, strict=True)
        for _ in range(LEVELS_ABOVE):
            [found] = found
    except ValueError:  # raise the form's own message, unless the depth is what is wrong
        form = read_form(SubmitRequest, request)
        encode_json(form.payload, f"the payload of {form.type}")
        raise
    return found  # type: ignore[no-any-return]


def _as_json(form: SubmitRequest) -> bytes:
    raw = to_json(form.payload, inf_nan_mode="constants")
    may_be_none = b"NaN" in raw or b"Infinity" in raw
    if may_be_none and to_json(form.payload, inf_nan_mode="null") != raw:
        check_numbers(raw, f"the payload of {form.type}")  # refuses it
    return raw


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause garbage collection while many values are made: none of them is garbage, and it would look at them all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
