"""Trace context from strangers: what cannot be read is no trace, and never an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged import damaged
from jsjobs.model.trace import NO_TRACE, Trace, read_trace, read_traceparent, trace_id

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_one_is_read() -> None:
    trace = read_trace([("TraceParent", GOOD), ("Tracestate", "rojo=00f067aa0ba902b7,congo@x=t61rcWkgMzE")])
    assert trace == Trace(GOOD, "rojo=00f067aa0ba902b7,congo@x=t61rcWkgMzE")
    assert trace.headers == {"traceparent": GOOD, "tracestate": "rojo=00f067aa0ba902b7,congo@x=t61rcWkgMzE"}
    assert trace_id(trace.traceparent) == TRACE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        GOOD[:-1],
        GOOD.upper(),
        f"{GOOD}-more",  # version 00 has no more
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-zz",
        f"{GOOD}\n",
        f"{GOOD}\r\nNats-Msg-Id: 1",
        f"\u0660\u0660-{TRACE}-{SPAN}-01",  # digits, of another script
        f"cc-{TRACE}-{SPAN}-01.what",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}",
    ],
)
def test_a_bad_one_is_none_and_its_state_is_dropped_with_it(text: str) -> None:
    assert read_trace([("traceparent", text), ("tracestate", "a=1")]) == NO_TRACE


def test_two_are_none() -> None:
    assert read_trace([("traceparent", GOOD), ("Traceparent", GOOD)]) == NO_TRACE


def test_a_later_version_is_read_as_far_as_this_one_goes() -> None:
    assert read_traceparent([f"cc-{TRACE}-{SPAN}-ff-what-the-future-brings"]) == f"00-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize(
    ("states", "read"),
    [
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1,, b=2 ,"], "a=1,b=2"),
        (["1tenant@vendor=x"], "1tenant@vendor=x"),
        (["a=1,a=2"], None),
        (["a"], None),
        (["A=1"], None),
        (["a=b=c"], None),
        (["a=\x00"], None),
        (["a=1\nb"], None),
        (["a=ü"], None),
        ([",".join(f"k{n}=v" for n in range(33))], None),
        (["a=" + "x" * 600], None),
        ([""], None),
    ],
)
def test_a_state_is_whole_or_none(states: list[str], read: str | None) -> None:
    headers = [("traceparent", GOOD), *(("tracestate", state) for state in states)]
    assert read_trace(headers) == Trace(GOOD, read)


MEMBERS = st.builds(
    "{}={}".format,
    st.sampled_from(["rojo", "a", "congo@x", "1t@v"]),
    st.from_regex(r"[!-+\--<>-~]{1,9}", fullmatch=True),
)
PARENTS = st.sampled_from([GOOD, f"00-{TRACE}-{SPAN}-00"]) | st.text().map(lambda more: f"cc-{TRACE}-{SPAN}-ff-{more}")
STATES = st.lists(MEMBERS, max_size=3).map(", ".join)
BITS = st.text(max_size=2) | st.sampled_from(["", "0", "f", "-", ",", "=", "\r\n", "\x00", "\u0660"])


def test_whatever_comes_can_be_sent_on() -> None:
    read: list[bool] = []

    @given(damaged(PARENTS, BITS), st.lists(damaged(STATES, BITS), max_size=2))
    def look(parent: str, states: list[str]) -> None:
        found = read_trace([("traceparent", parent), *(("tracestate", state) for state in states)]).headers
        read.append(bool(found))
        for value in found.values():
            assert value.isascii()
            assert value.isprintable()

    look()
    assert sum(read) > len(read) / 4
