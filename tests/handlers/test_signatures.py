"""Which parameter of a handler takes the payload and which the context, whatever their order and kind."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from jsjobs import JobService
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import read_handler
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

CONTEXT = JobContext("normal-1", "t", Priority.NORMAL, shard=0, attempt=1, fence=7)


class Mail(BaseModel):
    to: str


def usual(payload: Mail, ctx: JobService.Context) -> Any:
    return payload, ctx


def swapped(ctx: JobService.Context, payload: Mail) -> Any:
    return payload, ctx


def swapped_by_name(ctx, mail: Mail):
    return mail, ctx


def by_keyword(payload: Mail, *, ctx: JobService.Context) -> Any:
    return payload, ctx


def both_by_keyword(*, context, mail: Mail):
    return mail, context


def by_place_alone(_ctx, mail: Mail, /):
    return mail, _ctx


def with_a_default_between(mail: Mail, limit: int = 10, ctx: JobContext | None = None) -> Any:
    assert limit == 10
    return mail, ctx


def by_place_with_a_default_between(mail: Mail, limit: int = 10, ctx: Any = None, /) -> Any:
    assert limit == 10
    return mail, ctx


def named_otherwise(
    mail: Mail, run: "Annotated[JobContext, 'what runs']", retries: int = 3, *, loud: bool = False
) -> Any:
    assert (retries, loud) == (3, False)
    return mail, run


def filled_by_a_partial(server: str, mail: Mail, port: int, ctx: JobService.Context) -> Any:
    assert (server, port) == ("mail.example.org", 25)
    return mail, ctx


class Sender:
    def send(self, ctx: JobService.Context, mail: Mail) -> Any:
        return mail, ctx

    def __call__(self, mail: Mail, *, ctx: JobService.Context) -> Any:
        return mail, ctx


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_server(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(mail: Mail, ctx: JobService.Context) -> Any:
        return function(mail, "mail.example.org", ctx)

    return wrapper


@with_server
def given_a_server(mail: Mail, server: str, ctx: JobService.Context) -> Any:
    assert server == "mail.example.org"
    return mail, ctx


BOUND = {
    **{
        function.__name__: function
        for function in (
            *(usual, swapped, swapped_by_name, by_keyword, both_by_keyword, by_place_alone, with_a_default_between),
            *(by_place_with_a_default_between, named_otherwise, given_a_server),
        )
    },
    "partial": functools.partial(filled_by_a_partial, "mail.example.org", port=25),
    "wrapped": logged(swapped),
    "method": Sender().send,
    "callable object": Sender(),
}


@pytest.mark.parametrize("function", BOUND.values(), ids=BOUND)
def test_payload_and_context_come_where_they_are_wanted(function: Callable[..., Any]) -> None:
    handler = read_handler("t", function)
    assert handler.takes_context
    payload = handler.read_payload(b'{"to": "a@example.org"}')
    assert handler.call(payload, CONTEXT) == (Mail(to="a@example.org"), CONTEXT)


def only_with_a_default(payload: int = 5) -> int:
    return payload


def with_other_defaults(payload: int, limit: int = 10, *, loud: bool = False) -> int:
    assert (limit, loud) == (10, False)
    return payload


def keyword_alone(*, payload: int) -> int:
    return payload


def a_model_named_context(context: int) -> int:
    return context


@pytest.mark.parametrize(
    "function",
    [only_with_a_default, with_other_defaults, keyword_alone, a_model_named_context, functools.partial(pow, exp=1)],
)
def test_a_handler_may_do_without_the_context(function: Callable[..., Any]) -> None:
    handler = read_handler("t", function)
    assert not handler.takes_context
    assert handler.call(7) == 7


def two_payloads(mail: Mail, account: Mail) -> None: ...
def two_without_types(mail, account): ...
def two_of_three(mail: Mail, account: Mail, ctx: JobService.Context) -> None: ...
def another_keyword(mail: Mail, *, server: str) -> None: ...
def another_context(mail: Mail, ctx: dict[str, str]) -> None: ...
def context_alone(ctx: JobService.Context) -> None: ...
def context_alone_by_name(ctx): ...
def context_twice(mail: Mail, ctx: JobService.Context, again: JobService.Context) -> None: ...
def any_number(*args: Any) -> None: ...
def any_number_more(mail: Mail, *args: Any) -> None: ...
def any_keywords(mail: Mail, **kwargs: Any) -> None: ...
def none_at_all() -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (two_payloads, "takes 'mail' and 'account', and it is not clear which of them is the payload"),
        (two_without_types, "takes 'mail' and 'account'"),
        (two_of_three, "takes 'mail' and 'account'"),
        (another_keyword, "takes 'mail' and 'server'"),
        (another_context, "takes 'mail' and 'ctx'"),
        (context_alone, "takes no payload, only the context"),
        (context_alone_by_name, "takes no payload, only the context"),
        (context_twice, "takes the context twice, as 'ctx' and 'again'"),
        (any_number, r"takes \*args, .*functools.wraps"),
        (any_number_more, r"takes \*args"),
        (any_keywords, r"takes \*\*kwargs"),
        (none_at_all, "takes no payload"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_signature_that_says_too_little_is_refused_with_the_right_form(
    function: Callable[..., Any], why: str, is_async: bool
) -> None:
    @functools.wraps(function)
    async def later(*args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(JobError, match=rf"{why}.*: write it as `def handler\(payload: Mail\)` or ") as caught:
        read_handler("t", later if is_async else function)
    assert caught.value.reason == "Validation"


def generator(payload: object) -> Iterator[int]:
    yield 1


async def async_generator(payload: object) -> AsyncIterator[int]:
    yield 1


class Yields:
    def __call__(self, payload: object) -> Generator[int]:
        yield 1


def returns_an_iterator(payload: object) -> Iterator[int]:
    return iter([1])


async def returns_an_iterator_later(payload: object) -> Annotated[Iterator[int], "one by one"]:
    return iter([1])


@pytest.mark.parametrize(
    "function",
    [
        *(generator, async_generator, Yields(), Yields().__call__, functools.partial(generator)),
        *(returns_an_iterator, returns_an_iterator_later),
    ],
)
def test_generators_are_no_handlers(function: Callable[..., Any]) -> None:
    with pytest.raises(JobError, match=r"nothing consumes: return a list; .*report_progress, or submit a job for each"):
        read_handler("t", function)


def test_what_collects_a_generator_into_a_list_is_a_handler() -> None:
    @functools.wraps(generator)
    def collected(*args: Any) -> list[int]:
        return list(generator(*args))

    def any_iterable(payload: object) -> Iterable[int]:
        return [1]

    for function in (collected, any_iterable):
        handler = read_handler("t", function)
        assert handler.write_result(handler.call(None)) == b"[1]"


def test_what_is_awaited_has_the_type_of_the_result() -> None:
    def coroutine(payload: object) -> Coroutine[Any, Any, Mail]: ...
    def awaitable(payload: object) -> Awaitable[Mail]: ...
    def future(payload: object) -> asyncio.Future[Mail]: ...
    def anything(payload: object) -> Awaitable: ...

    for function in (coroutine, awaitable, future):
        assert read_handler("t", function).write_result({"to": "a"}) == b'{"to":"a"}'
        with pytest.raises(JobError, match="the result of t is invalid"):
            read_handler("t", function).write_result({"from": "a"})
    assert read_handler("t", anything).write_result(5) == b"5"
