"""Register handlers: which function handles which type of job, and the types of its payload and result."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from jsjobs.handlers.importable import check_function, pickled
from jsjobs.handlers.result_check import SIMPLE, check_data
from jsjobs.handlers.signature import read_signature
from jsjobs.jetstream.protocol.headers import check_numbers, check_told, encode_json, parse_json
from jsjobs.jetstream.protocol.names import checked_type
from jsjobs.jetstream.protocol.typed_values import Typed
from jsjobs.model.checks import checked_kind, problems
from jsjobs.model.errors import JobError
from jsjobs.model.retry import Retry
from jsjobs.model.through_json import PLAIN

Handler = Callable[..., Any]
"""An async or plain function of the payload, or of the payload and the job's context."""

RunIn = Literal["thread", "process"]
"""Where a plain function runs."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler, with what its signature says."""

    type: str
    function: Handler
    call: Handler
    """The function to call with the payload, or payload and context, by position."""
    is_async: bool
    takes_context: bool
    payload: Typed | None
    """The type of the payload; None for any JSON."""
    result: Typed | None
    """The type of the result; None for anything that JSON can hold."""
    retry: Retry | None
    max_attempts: int | None
    """The attempts, by its own policy, of jobs whose publisher set none; None if it has no policy."""
    in_process: bool = False
    """Whether it runs in another process."""
    concurrency: int | None = None
    """The most of its jobs that a worker process runs at once; None: as many as the worker has slots."""

    def read_payload(self, data: bytes) -> Any:
        """Return the payload as the handler takes it.

        Call it where the handler runs, since a model's validators are the user's code.

        Raises:
            JobError: `Validation`, listing what does not fit.
        """
        if self.payload is None:
            return parse_json(data, "the payload")
        check_numbers(data, "the payload")
        typed = self.payload
        by_name = (typed.travel or typed.look()).by_name
        try:
            # Calling the adapter's own method would double the cost.
            return typed.adapter.validator.validate_json(data, by_alias=by_name, by_name=by_name)
        except ValidationError as error:
            text = f"the payload of {self.type} is invalid: {problems(error)}"
            raise JobError.from_validation(text, cause=error) from None

    def write_result(self, value: Any) -> bytes | None:
        """Return the result as JSON; None for None. Call it where the handler ran, like `read_payload`.

        Raises:
            JobError: `Validation`, if it is not what the handler declares, JSON cannot hold it, or it is still to be
                computed.
        """
        what = f"the result of {self.type}"
        if type(value) not in SIMPLE and not (type(value) is dict and SIMPLE.issuperset(map(type, value.values()))):
            check_data(value, what)
        typed = self.result
        if typed is None:
            if value is None:
                return None
            has_fields = type(value) not in PLAIN
        else:
            has_fields = (typed.travel or typed.look()).has_fields
            try:
                value = typed.adapter.validator.validate_python(value)
            except ValidationError as error:
                raise JobError.from_validation(f"{what} is invalid: {problems(error)}", cause=error) from None
        raw = encode_json(value, what)
        if has_fields:
            check_told(value, raw, what)
        return raw


class Registry:
    """The handlers of one process."""

    def __init__(self) -> None:
        self._handlers: dict[str, Registration] = {}
        self.get: Callable[[str], Registration | None] = self._handlers.get
        """The look-up of a type's handler, or None: the table's own method, since it is called for each job."""

    def register(
        self,
        job_type: str,
        function: Handler,
        *,
        retry: Retry | None = None,
        run_in: RunIn | None = None,
        concurrency: int | None = None,
    ) -> Registration:
        """Make a function the handler of a type.

        Raises:
            JobError: `Validation`, if the type is not a valid name, already has a handler, or the function cannot be a
                handler, or cannot run in a process, or its concurrency is no number above 0.
        """
        checked_type(job_type)
        checked_kind("retry", retry, Retry)
        _check_concurrency(job_type, concurrency)
        if job_type in self._handlers:
            raise JobError.from_validation(
                f"{job_type} already has a handler: {_place(self._handlers[job_type].function)}"
            )
        in_process = _is_for_process(job_type, run_in)
        registration = read_handler(job_type, function, retry=retry, in_process=in_process, concurrency=concurrency)
        if registration.is_async and run_in is not None:
            raise JobError.from_validation(
                f"the handler of {job_type} is async and runs in the event loop: run_in is for plain functions"
            )
        if registration.in_process:
            check_function(job_type, function)
        self._handlers[job_type] = registration
        return registration

    def types_of(self, function: Handler | None) -> list[str]:
        """Return the types that a function handles, sorted."""
        return sorted(one.type for one in self._handlers.values() if one.function is function)

    def for_processes(self) -> dict[str, bytes]:
        """Return the handlers that run in processes, pickled, by type; call it once their modules are complete.

        Raises:
            JobError: `Validation`, if one cannot run there, with what to do about it.
        """
        handlers = self._handlers.values()
        return {one.type: pickled(one.type, one.function) for one in handlers if one.in_process}

    @property
    def types(self) -> list[str]:
        """Return all types, sorted."""
        return sorted(self._handlers)


def _place(function: Handler) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return name if code is None else f"{name}, {code.co_filename}:{code.co_firstlineno}"


def _is_for_process(job_type: str, run_in: RunIn | None) -> bool:
    if run_in not in (None, *typing.get_args(RunIn)):  # a tuple, since an unhashable value cannot be in a set
        raise JobError.from_validation(f"run_in of {job_type} must be 'thread' or 'process', not {run_in!r}")
    return run_in == "process"


def _check_concurrency(job_type: str, concurrency: object) -> None:
    if concurrency is None or (type(concurrency) is int and concurrency >= 1):
        return
    text = f"the concurrency of {job_type} must be a whole number of 1 or more, not {str(concurrency)[:40]!r}"
    raise JobError.from_validation(text)


def read_handler(
    job_type: str,
    function: Handler,
    *,
    retry: Retry | None = None,
    in_process: bool = False,
    concurrency: int | None = None,
) -> Registration:
    """Read a handler's registration from its signature.

    Raises:
        JobError: `Validation`, if it cannot be a handler.
    """
    if not callable(function):
        raise JobError.from_validation(f"the handler of {job_type} must be a function, not {function!r}")
    signature = read_signature(job_type, function)
    return Registration(
        type=job_type,
        function=function,
        call=signature.call,
        is_async=signature.is_async,
        takes_context=signature.takes_context,
        payload=_adapter(signature.payload, f"the payload of {job_type}"),
        result=_adapter(signature.result, f"the result of {job_type}"),
        retry=retry,
        max_attempts=None if retry is None else retry.attempts,
        in_process=in_process,
        concurrency=concurrency,
    )


def _adapter(annotation: Any, what: str) -> Typed | None:
    if annotation is Any or annotation is object:
        return None
    try:
        return Typed(TypeAdapter(annotation))
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise JobError.from_validation(
            f"{what} is annotated with a type that pydantic does not support: {error}"
        ) from error
