"""A result is data, and is written where its handler ran: what that runs holds up no other job."""

import asyncio
import functools
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, computed_field, field_validator

import process_handlers
from facts import eventually
from handler_runs import Runs, entry, handling
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import Registry
from jsjobs.model.errors import JobError
from jsjobs.model.retry import Snooze
from jsjobs.worker.result import Cancelled, Complete, DeadLetter, RetryAfter, SnoozeFor
from jsjobs.worker.run_state import Stop
from process_runs import Runs as ProcessRuns


@pytest.fixture
def run() -> Iterator[Runs]:
    with ThreadPoolExecutor(2) as pool:
        yield Runs(pool)


class Report(BaseModel):
    model_config = ConfigDict(extra="allow")

    rows: Any = None


@dataclass
class Row:
    cells: Any


@dataclass(slots=True)
class SlottedRow:
    cells: Any


def numbers() -> Iterator[int]:
    """Three: one without an end would take all memory where a test of this fails."""
    return iter(range(3))


async def answer() -> int:
    return 42


async def async_numbers():
    yield 1


UNFINISHED: dict[str, tuple[Callable[[], Any], str]] = {
    "a generator": (lambda: (n for n in range(3)), "is a generator.*return a list"),
    "an iterator": (numbers, "is a range_iterator.*return a list"),
    "a map": (lambda: map(str, numbers()), "is a map.*return a list"),
    "in a list": (lambda: [1, [numbers()]], "holds a range_iterator"),
    "in a tuple": (lambda: (1, numbers()), "holds a range_iterator"),
    "in a dict": (lambda: {"rows": numbers()}, "holds a range_iterator"),
    "in a deque": (lambda: deque([numbers()]), "holds a range_iterator"),
    "in a model": (lambda: Report(rows=numbers()), "holds a range_iterator"),
    "in what a model has more": (lambda: [Report(more={"rows": numbers()})], "holds a range_iterator"),
    "in a dataclass": (lambda: Row([numbers()]), "holds a range_iterator"),
    "in a dataclass with slots": (lambda: SlottedRow([numbers()]), "holds a range_iterator"),
    "an async generator": (async_numbers, "is an async_generator.*return a list"),
    "coroutines in a list": (lambda: [answer()], "holds a coroutine.*await it in the handler"),
}


@pytest.mark.parametrize(("make", "why"), UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_result_that_is_still_to_be_computed_is_refused(
    run: Runs, make: Callable[[], Any], why: str, is_async: bool
) -> None:
    def plain(payload: object) -> object:
        return make()

    async def later(payload: object) -> object:
        return make()

    def listed(payload: object) -> list[Any]:
        return make()

    for function in [later] if is_async else [plain, listed]:
        verdict = await run(function)
        assert isinstance(verdict, DeadLetter)
        assert verdict.reason == "Validation"
        with pytest.raises(JobError, match=f"the result of t {why}"):
            raise verdict.cause


async def test_a_coroutine_that_an_async_handler_returns_is_refused_and_closed(run: Runs) -> None:
    async def forgets(payload: object) -> object:
        return answer()

    verdict = await run(forgets)
    assert isinstance(verdict, DeadLetter)
    assert "is a coroutine, which nothing has awaited: await it in the handler" in verdict.error


async def test_data_of_every_kind_is_a_result_though_it_holds_itself_twice(run: Runs) -> None:
    row = Row({"n": 1.5})

    async def data(payload: object) -> object:
        return [row, row, Report(rows=[row], more=(None,)), {"s": {1}, "d": deque([True])}, "text", b"bytes"]

    written = b'{"cells":{"n":1.5}}'
    assert await run(data) == Complete(
        b'[%b,%b,{"rows":[%b],"more":[null]},{"s":[1],"d":[true]},"text","bytes"]' % (written, written, written)
    )


async def test_a_result_that_holds_itself_is_refused_as_before(run: Runs) -> None:
    async def circular(payload: object) -> object:
        value: list[Any] = []
        value.append(value)
        return value

    verdict = await run(circular)
    assert isinstance(verdict, DeadLetter)
    assert "cannot be written as JSON" in verdict.error


READ: list[str] = []


class Slow(BaseModel):
    """Its own code runs where it is read, and where it is written."""

    n: int

    @field_validator("n")
    @classmethod
    def _look(cls, n: int) -> int:
        READ.append(threading.current_thread().name)
        return n

    @computed_field
    @property
    def where(self) -> str:
        time.sleep(0.2)
        return threading.current_thread().name


async def test_a_plain_handler_s_payload_is_read_and_its_result_written_in_its_thread(run: Runs) -> None:
    loop, slowest = asyncio.get_running_loop(), 0.0

    async def beat() -> None:
        nonlocal slowest
        while True:
            begin = loop.time()
            await asyncio.sleep(0)
            slowest = max(slowest, loop.time() - begin)

    def slow(payload: Slow) -> Slow:
        return payload

    beating = asyncio.ensure_future(beat())
    READ.clear()
    verdict = await run(slow, b'{"n":1}')
    beating.cancel()
    assert isinstance(verdict, Complete)
    assert b'"where":"ThreadPoolExecutor' in (verdict.result or b"")
    assert READ
    assert all(name.startswith("ThreadPoolExecutor") for name in READ)
    assert slowest < 0.15, "the event loop went on meanwhile"


async def test_writing_takes_of_the_time_of_its_handler(run: Runs) -> None:
    def slow(payload: object) -> Slow:
        return Slow(n=1)

    verdict = await run(slow, limit=0.05)
    assert isinstance(verdict, RetryAfter)
    assert verdict.error == "Timeout: the handler ran longer than 0.05 s"


async def test_a_cancel_while_the_result_is_written_is_a_cancel(run: Runs) -> None:
    at_work, writing, go_on = handling(), threading.Event(), threading.Event()

    class Waits(BaseModel):
        @computed_field
        @property
        def where(self) -> str:
            writing.set()
            go_on.wait(10)
            return "written"

    def waits(payload: object) -> Waits:
        return Waits()

    task = asyncio.ensure_future(run(waits, on=at_work))
    await eventually(writing.is_set)
    at_work.stop(Stop.CANCEL)
    go_on.set()
    assert await task == Cancelled()


# -- what returns something to be awaited


def plain_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def own_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return asyncio.run(function(*args))

    return wrapper


async def double(payload: int, ctx: JobContext) -> int:
    await asyncio.sleep(0)
    return payload * 2 * ctx.attempt


class Doubles:
    async def __call__(self, payload: int) -> int:
        await asyncio.sleep(0)
        return payload * 2

    async def method(self, payload: int) -> int:
        return await self(payload)


class DoublesWhenAwaited:
    def __init__(self, payload: int) -> None:
        self.payload = payload

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.payload * 2


class ReturnsACoroutine:
    def __call__(self, payload: int) -> Any:
        return Doubles()(payload)


AWAITED: dict[str, Callable[..., Any]] = {
    "a plain wrapper": plain_wrapper(double),
    "a wrapper of a wrapper": plain_wrapper(plain_wrapper(double)),
    "a wrapper with a loop of its own": own_loop(double),
    "a lambda": lambda number, ctx: double(number, ctx=ctx),
    "a partial": functools.partial(Doubles.method, Doubles()),
    "a partial of a wrapper": functools.partial(plain_wrapper(double)),
    "a callable object": Doubles(),
    "a bound method": Doubles().method,
    "a plain callable object": ReturnsACoroutine(),
    "another awaitable": DoublesWhenAwaited,
}


@pytest.mark.parametrize("function", AWAITED.values(), ids=AWAITED)
async def test_whatever_is_to_be_awaited_is_awaited(run: Runs, function: Callable[..., Any]) -> None:
    assert await run(function, b"21") == Complete(b"42")


async def test_it_is_awaited_in_the_worker_s_loop_with_what_its_wrapper_has_set(run: Runs) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    loop = asyncio.get_running_loop()

    async def looks(payload: object) -> list[Any]:
        return [asyncio.get_running_loop() is loop, variable.get()]

    @functools.wraps(looks)
    def sets(payload: object) -> Any:
        variable.set("set")
        return looks(payload)

    assert await asyncio.ensure_future(run(sets)) == Complete(b'[true,"set"]')
    assert variable.get() == "unset"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Snooze(5), SnoozeFor(5)),
        (JobError.from_validation("no"), DeadLetter("Validation", "Validation: no")),
        (ValueError("bad"), DeadLetter("MaxRetries", "ValueError: bad")),
        (SystemExit(3), DeadLetter("MaxRetries", "SystemExit: 3")),
    ],
)
async def test_what_it_raises_counts(run: Runs, error: BaseException, expected: object) -> None:
    async def fails(payload: object) -> None:
        raise error

    assert await run(plain_wrapper(fails), of=entry(attempts=3)) == expected


async def test_its_limit_and_a_cancel_interrupt_it(run: Runs) -> None:
    started = asyncio.Event()

    async def slow(payload: object) -> None:
        started.set()
        await asyncio.sleep(60)

    verdict = await run(plain_wrapper(slow), limit=0.05)
    assert isinstance(verdict, RetryAfter)
    assert verdict.error == "Timeout: the handler ran longer than 0.05 s"
    started.clear()
    at_work = handling()
    task = asyncio.ensure_future(run(plain_wrapper(slow), on=at_work))
    await started.wait()
    at_work.stop(Stop.CANCEL)
    assert await task == Cancelled()


async def test_what_was_cancelled_before_it_could_be_awaited_is_closed(run: Runs) -> None:
    at_work, entered, go_on, coroutine = handling(), threading.Event(), threading.Event(), answer()

    def waits(payload: object) -> Any:
        entered.set()
        go_on.wait(10)
        return coroutine

    task = asyncio.ensure_future(run(waits, on=at_work))
    await eventually(entered.is_set)
    at_work.stop(Stop.CANCEL)
    go_on.set()
    assert await task == Cancelled()
    state = inspect.getcoroutinestate(coroutine)
    coroutine.close()  # else Python warns of it, and nobody sees what is wrong
    assert state == inspect.CORO_CLOSED


@pytest.mark.parametrize(
    "function",
    [process_handlers.AsyncCaller(), functools.partial(process_handlers.later), process_handlers.AsyncCaller().method],
)
def test_what_is_async_in_any_form_is_refused_for_a_process(function: Callable[..., Any]) -> None:
    with pytest.raises(JobError, match="the handler of t is async and runs in the event loop"):
        Registry().register("t", function, run_in="process")


@pytest.fixture
async def in_process() -> Any:
    runs = ProcessRuns(1)
    yield runs
    await runs.processes.close()


async def test_a_process_says_what_it_cannot_await_or_write(in_process: ProcessRuns) -> None:
    verdict = await in_process(process_handlers.returns_a_coroutine)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason == "Validation"
    assert "no event loop runs in its process: call asyncio.run in the handler, or leave out run_in" in verdict.error
    verdict = await in_process(process_handlers.returns_an_iterator)
    assert isinstance(verdict, DeadLetter)
    assert "the result of returns_an_iterator is a list_iterator, which nothing has consumed" in verdict.error
    assert await in_process(process_handlers.runs_a_coroutine) == Complete(b"42")
