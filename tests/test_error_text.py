"""What is said of an exception has a bound, and so has the time that it takes to say it."""

import io
import json
import logging
import sys
import time
import traceback

import pytest

from jsjobs.error_text import MOST, cut, in_bounds, text_of
from jsjobs.logs import JsonFormatter, TextFormatter
from jsjobs.safe_log import get_logger

HUGE = 30_000_000
ROOM = 500_000
"""Characters of everything together that is said of one exception, generously."""


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - it was raised just now
        return caught


def recursing(depth: int) -> None:
    if depth == 0:
        raise ValueError("at the bottom")
    recursing(depth - 1) if depth % 2 else other(depth - 1)


def other(depth: int) -> None:
    recursing(depth)


def deep() -> BaseException:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        recursing(5_000)
    except ValueError as caught:
        return caught
    finally:
        sys.setrecursionlimit(limit)
    raise AssertionError


def noted() -> BaseException:
    error = raised(ValueError("noted"))
    error.__notes__ = ["n" * HUGE, *("more" for _ in range(100_000)), 7]
    return error


def chained(error: BaseException, *, by: str = "__cause__") -> BaseException:
    outer = raised(RuntimeError("outer"))
    setattr(outer, by, error)
    return outer


def long_chain() -> BaseException:
    error = raised(ValueError("the first"))
    for _ in range(5_000):
        error = chained(error)
    return error


def nested_groups() -> BaseException:
    error: Exception = ValueError("x" * HUGE)
    for _ in range(500):
        error = ExceptionGroup("of one", [error])
    return raised(error)


LARGE = {
    "text": lambda: raised(ValueError("x" * HUGE)),
    "key": lambda: raised(KeyError("x" * HUGE)),
    "list": lambda: raised(ValueError([0] * HUGE)),
    "dict": lambda: raised(ValueError({"a": dict.fromkeys(range(200000), "x" * 100)})),
    "bytes": lambda: raised(ValueError(b"x" * HUGE, bytearray(HUGE))),
    "many": lambda: raised(ValueError(*range(1_000_000))),
    "file": lambda: raised(OSError(2, "x" * HUGE)),
    "notes": noted,
    "cause": lambda: chained(raised(ValueError("x" * HUGE))),
    "context": lambda: chained(raised(ValueError("x" * HUGE)), by="__context__"),
    "chain": long_chain,
    "deep": deep,
    "group": lambda: raised(ExceptionGroup("g" * HUGE, [ValueError(str(number)) for number in range(100_000)])),
    "in a group": lambda: raised(ExceptionGroup("g", [ValueError("x" * HUGE)])),
    "nested groups": nested_groups,
    "base group": lambda: raised(BaseExceptionGroup("g", [KeyboardInterrupt("x" * HUGE), ValueError("y" * HUGE)])),
    "syntax": lambda: raised(SyntaxError("x" * HUGE, ("f", 1, 1, "y" * HUGE))),
    "type": lambda: raised(type("T" * HUGE, (Exception,), {})("named at length")),
}


@pytest.mark.parametrize("kind", LARGE)
def test_whatever_is_raised_is_told_in_bounds(kind: str) -> None:
    error = LARGE[kind]()
    started = time.monotonic()
    assert len(text_of(error)) < 2 * MOST
    short = in_bounds(error)
    told = "".join(traceback.format_exception(short))
    text, line = io.StringIO(), io.StringIO()
    for stream, formatter in ((text, TextFormatter("%(message)s")), (line, JsonFormatter())):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger = logging.getLogger(f"jsjobs.test.{id(stream)}")
        logger.propagate = False
        logger.addHandler(handler)
        get_logger(logger.name).error("it failed", exc_info=error)
        logger.error("a handler's own logger", exc_info=error)
    assert time.monotonic() - started < 5
    for said in (told, text.getvalue(), line.getvalue()):
        assert 0 < len(said) < ROOM
    assert type(error).__name__[:50] in told
    assert type(error).__name__[:50] in text.getvalue()
    assert all(json.loads(one)["exception"] for one in line.getvalue().splitlines())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        KeyError("k"),
        ValueError({"a": [1, 2]}),
        ValueError("one", 2),
        ValueError(),
        OSError(2, "no"),
    ],
    ids=repr,
)
def test_what_is_short_is_told_as_python_tells_it(error: Exception) -> None:
    assert text_of(error) == str(error)
    assert in_bounds(error) is error
    outer = chained(error)
    outer.add_note("a note")
    assert in_bounds(outer) is outer


def test_what_is_cut_says_so_and_keeps_begin_end_place_and_what_lies_behind() -> None:
    text = text_of(ValueError("begin " + "x" * HUGE + " end"))
    assert text.startswith("begin xxx")
    assert text.endswith("xxx end")
    assert "characters are left out" in text
    error = chained(raised(ValueError("x" * HUGE)))
    error.add_note("where it was")
    told = "".join(traceback.format_exception(in_bounds(error)))
    assert told.index("ValueError: xxx") < told.index("direct cause") < told.index("RuntimeError: outer")
    assert "where it was" in told
    assert told.count("in raised") == 2
    bottom = "".join(traceback.format_exception(in_bounds(deep())))
    assert "in deep" in bottom
    assert "ValueError: at the bottom" in bottom


def test_a_cycle_of_causes_ends() -> None:
    one, two = raised(ValueError("x" * HUGE)), raised(ValueError("two"))
    one.__cause__, two.__cause__ = two, one
    assert "two" in "".join(traceback.format_exception(in_bounds(one)))


def test_a_record_of_any_size_is_one_bounded_line() -> None:
    record = logging.LogRecord("shop", logging.INFO, "", 0, "begin %s end", ("\x1b" * HUGE,), None)
    record.beside = "b" * HUGE
    started = time.monotonic()
    text, line = TextFormatter("%(message)s").format(record), JsonFormatter().format(record)
    assert time.monotonic() - started < 5
    assert len(text) < ROOM
    assert text.startswith("begin \\x1b")
    assert text.endswith(" end")
    assert len(line) < ROOM
    assert set(json.loads(line)) == {"time", "level", "logger", "message", "beside"}


def test_short_texts_are_not_cut() -> None:
    assert cut("x" * 10, 10) == "x" * 10
