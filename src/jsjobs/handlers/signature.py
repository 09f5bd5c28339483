"""Read a handler's signature: which parameter takes the payload, and which the job's context."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Union

from jsjobs.handlers.context import JobContext
from jsjobs.model.errors import JobError

_FORM = "write it as `def handler(payload: Mail)` or `def handler(payload: Mail, ctx: JobService.Context)`"
_LIST = "return a list; report progress with ctx.report_progress, or submit a job for each item"
_CONTEXT_NAMES = {"ctx", "context"}
_BY_PLACE = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
_ANY_NUMBER = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_TO_AWAIT = (Awaitable, Coroutine, asyncio.Future, asyncio.Task)


@dataclass(frozen=True, slots=True)
class Signature:
    """The result of reading a handler's signature."""

    call: Callable[..., Any]
    """The function to call with the payload, or payload and context, by position."""
    is_async: bool
    """Whether it is called in the event loop. A plain function may still return something to be awaited."""
    takes_context: bool
    payload: Any
    """The payload's annotation; `Any` if there is none."""
    result: Any


def read_signature(job_type: str, function: Callable[..., Any]) -> Signature:
    """Read a handler's signature.

    Raises:
        JobError: `Validation`, if it cannot be a handler's, with a form that can.
    """
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        parameters = list(_signature(function).parameters.values())
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise JobError.from_validation(
            f"the signature of the handler of {job_type} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise JobError.from_validation(f"the handler of {job_type} is a generator, which nothing consumes: {_LIST}")
    try:
        payload, context = _chosen(parameters, hints)
    except ValueError as error:
        raise JobError.from_validation(f"the handler of {job_type} {error}: {_FORM}") from error
    # As in asyncio, functions that are marked as coroutine functions count; up to Python 3.11 the mark is another one.
    is_async = any(inspect.iscoroutinefunction(one) or _is_marked(one) for one in (target, function))
    result = hints.get("return", Any)
    if not is_async:
        result = _awaited(result)
    if _is_iterator(result):
        if not hasattr(target, "__wrapped__"):
            told = f"the handler of {job_type} returns {result}, which nothing consumes: {_LIST}"
            raise JobError.from_validation(told)
        result = Any  # a decorator may turn it into a list
    return Signature(
        call=_call(function, parameters, payload, context),
        is_async=is_async,
        takes_context=context is not None,
        payload=hints.get(payload.name, Any),
        result=result,
    )


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's own signature, or that of the function it wraps if it passes on any arguments."""
    own = inspect.signature(function, follow_wrapped=False)
    passes_on = any(parameter.kind in _ANY_NUMBER for parameter in own.parameters.values())
    return inspect.signature(function) if passes_on else own


def _is_marked(function: Any) -> bool:
    return getattr(function, "_is_coroutine", None) is getattr(asyncio.coroutines, "_is_coroutine", function)


def _chosen(parameters: Sequence[Parameter], hints: Mapping[str, Any]) -> tuple[Parameter, Parameter | None]:
    """Return the parameters that take the payload and the context.

    Raises:
        ValueError: If it is not clear which these are, or another parameter is left without a value.
    """
    for parameter in parameters:
        if parameter.kind in _ANY_NUMBER:
            stars = f"{_ANY_NUMBER[parameter.kind]}{parameter.name}"
            raise ValueError(f"takes {stars}, from which the payload is unclear (a decorator needs functools.wraps)")
    contexts = [one for one in parameters if _is_context(hints.get(one.name))] or [
        one for one in parameters if one.name.strip("_") in _CONTEXT_NAMES and hints.get(one.name, Any) in (Any, object)
    ]
    if len(contexts) > 1:
        raise ValueError(f"takes the context twice, as {_list(contexts)}")
    others = [one for one in parameters if one not in contexts]
    needed = [one for one in others if one.default is Parameter.empty]
    if len(needed) > 1:
        raise ValueError(f"takes {_list(needed)}, and it is not clear which of them is the payload")
    payloads = needed or [one for one in others if one.kind in _BY_PLACE]
    if not payloads:
        raise ValueError(f"takes no payload{', only the context' if contexts else ''}")
    return payloads[0], contexts[0] if contexts else None


def _list(parameters: Sequence[Parameter]) -> str:
    return " and ".join(repr(one.name) for one in parameters)


def _call(
    function: Callable[..., Any], parameters: Sequence[Parameter], payload: Parameter, context: Parameter | None
) -> Callable[..., Any]:
    """Return a callable that takes payload and context by position: usually the function itself."""
    ours = [payload] if context is None else [payload, context]
    by_place = [one for one in parameters if one.kind in _BY_PLACE]
    while by_place and by_place[-1] not in ours:
        by_place.pop()
    if by_place == ours:
        return function
    names = [one.name for one in ours]

    def call(*values: Any) -> Any:
        given = dict(zip(names, values, strict=True))
        places = [given.pop(one.name, one.default) for one in by_place]
        return function(*places, **given)

    return call


def _is_context(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _is_context(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_is_context(one) for one in typing.get_args(annotation))
    return annotation is JobContext


def _awaited(annotation: Any) -> Any:
    """Return the annotation of what awaiting a value of this annotation gives."""
    if (typing.get_origin(annotation) or annotation) not in _TO_AWAIT:
        return annotation
    arguments = typing.get_args(annotation)
    return arguments[-1] if arguments else Any


def _is_iterator(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _is_iterator(typing.get_args(annotation)[0])
    kind = origin or annotation
    return inspect.isclass(kind) and issubclass(kind, Iterator | AsyncIterator)
