import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from jsjobs.jetstream.protocol.headers import (
    NO_HEADERS,
    JobHeaders,
    UnreadableHeaders,
    check_numbers,
    check_sizes,
    encode_json,
    header_block,
    lenient_pairs,
    parse_attempts,
    parse_block,
    parse_job_headers,
    parse_json,
    parse_timeout,
    value_of,
)
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Duration
from outcomes import outcome

NAMES = [
    *("Jsjobs-Entity", "Jsjobs-Tenant", "Jsjobs-Max-Attempts", "Jsjobs-Duration", "Jsjobs-Timeout", "Jsjobs-Id"),
    *("Jsjobs-Expires", "Jsjobs-Expired"),
]
LINES = st.binary(max_size=20) | st.builds(
    lambda name, value: name.encode() + b": " + value, st.sampled_from(NAMES), st.binary(max_size=20)
)


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@given(
    st.binary()
    | st.binary().map(lambda raw: b"NATS/1.0\r\n" + raw + b"\r\n\r\n")
    | st.lists(LINES).map(lambda x: block(*x))
)
def test_any_bytes_are_headers_or_a_validation_error(raw: bytes) -> None:
    headers = outcome(parse_job_headers, raw)
    if isinstance(headers, JobError):
        assert headers.reason is Reason.VALIDATION
        assert len(str(headers)) < 2000
    else:
        assert headers == NO_HEADERS or b"jsjobs-" in raw.lower()
    assert isinstance(lenient_pairs(raw), list)


@pytest.mark.parametrize(
    "raw",
    [
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/1.0\r\nJsjobs-Tenant: a\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"\0",
    ],
)
def test_what_is_no_header_block_is_refused(raw: bytes) -> None:
    with pytest.raises(JobError, match="header block cannot be read"):
        parse_job_headers(raw)


def test_no_headers_and_strangers_headers_say_nothing() -> None:
    assert parse_job_headers(b"") == NO_HEADERS
    assert parse_job_headers(block()) == NO_HEADERS
    assert parse_job_headers(block(b"X-Own: 1", b"Nats-Msg-Id: k")) == NO_HEADERS


def test_every_header_is_read() -> None:
    pairs = {
        "Jsjobs-Entity": "Größe 42",
        "Jsjobs-Tenant": "acme",
        "Jsjobs-Request-Id": "r:1",
        "Jsjobs-Batch": "b",
        "Jsjobs-Max-Attempts": "7",
        "Jsjobs-Duration": "long",
        "Jsjobs-Timeout": "1.5",
        "Jsjobs-Expires": "2026-11-22T12:00:00Z",
        "Jsjobs-Expired": "drop",
        "Jsjobs-Id": "replay-1-x",
    }
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert parse_job_headers(header_block(pairs)) == JobHeaders(
        "Größe 42", "acme", "r:1", "b", 7, Duration.LONG, 1.5, noon, True, "replay-1-x"
    )


@given(
    st.dictionaries(
        st.from_regex(r"X-[A-Za-z0-9!#$%&'*+.^_`|~-]+", fullmatch=True),
        st.text(st.characters(exclude_categories=["C", "Z"])),
        max_size=5,
    )
)
def test_what_is_written_is_read_again(pairs: dict[str, str]) -> None:
    assert parse_block(header_block(pairs)) == list(pairs.items())


@pytest.mark.parametrize(
    "line",
    [
        b"Jsjobs-Expires: 1795318823",
        b"Jsjobs-Expires: 30s",
        b"Jsjobs-Expires: 2026-11-22",
        b"Jsjobs-Expires: 2026-11-22T12:00:00",
        b"Jsjobs-Expires: 2026-02-31T12:00:00Z",
        b"Jsjobs-Expires: 0001-01-01T00:00:00+23:59",
        b"Jsjobs-Expires:",
        b"Jsjobs-Expired: maybe",
        b"Jsjobs-Expired: Drop",
    ],
)
def test_an_expiry_that_cannot_be_read_is_the_job_s_own_failure(line: bytes) -> None:
    name = line.partition(b":")[0].decode()
    with pytest.raises(UnreadableHeaders, match=f"{name}: must be") as caught:
        parse_job_headers(block(line, b"Jsjobs-Tenant: acme"))
    assert caught.value.readable == JobHeaders(tenant="acme")


def test_names_have_no_case_and_the_first_of_a_name_counts() -> None:
    raw = block(b"jsjobs-TENANT:first", b"Jsjobs-Tenant: second", b"JSJOBS-MAX-ATTEMPTS: \t 4 ")
    assert parse_job_headers(raw) == JobHeaders(tenant="first", max_attempts=4)


def test_every_header_that_cannot_be_read_is_named() -> None:
    raw = block(b"Jsjobs-Max-Attempts: 0", b"Jsjobs-Timeout: never", b"Jsjobs-Duration: eternal", b"Jsjobs-Id: high-7")
    with pytest.raises(JobError) as caught:
        parse_job_headers(raw)
    for name in ("Max-Attempts", "Timeout", "Duration", "Id"):
        assert f"Jsjobs-{name}: must" in caught.value.message


@pytest.mark.parametrize("value", [b"", b"a\nb", b"\x00", b"x" * 257, b"\xe2\x80\xa8"])
def test_a_name_that_cannot_be_one_is_refused(value: bytes) -> None:
    with pytest.raises(JobError, match="Jsjobs-Entity: the entity must be"):
        parse_job_headers(block(b"Jsjobs-Entity:" + value))


def test_a_header_line_that_is_none_is_refused_beside_ours() -> None:
    with pytest.raises(JobError, match="header line"):
        parse_job_headers(block(b"no colon", b"Jsjobs-Tenant: a"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 1), ("0.000000001", 1e-9), ("007.50", 7.5), ("999999999", 999999999)]
)
def test_timeouts_are_decimals_above_0(text: str, seconds: float) -> None:
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", ".5", "5.", "1_0", "1,5", " 1", "1s", "\u0661", "1" * 10]
)
def test_what_is_no_such_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        parse_timeout(text)


@pytest.mark.parametrize("text", ["", "0", "1001", "-1", "1.0", "1e1", "²", "00001", "3 "])
def test_attempts_are_whole_numbers_from_1_to_1000(text: str) -> None:
    assert [parse_attempts("1"), parse_attempts("1000")] == [1, 1000]
    with pytest.raises(ValueError, match="whole number"):
        parse_attempts(text)


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"NaN", b"[NaN]", b"-Infinity", b'{"a":Infinity}', b'"\\ud800"', b'"\xed\xa0\x80"', b"\xff", b"1 2",
     b"{", b"'a'", b"{a:1}", b"01", b"nul", b'"\0"', b"\xef\xbb\xbf1", b"[" * 100_000, b"1" * 5000],
)  # fmt: skip
def test_what_is_not_strict_json_is_a_validation_error(raw: bytes) -> None:
    with pytest.raises(JobError, match=r"the payload is (not JSON|empty)") as caught:
        parse_json(raw, "the payload")
    assert caught.value.reason is Reason.VALIDATION


def test_an_empty_body_is_told_as_one() -> None:
    with pytest.raises(JobError, match="the payload is empty, it must be JSON"):
        parse_json(b"", "the payload")


@given(st.binary())
def test_any_body_is_json_or_a_validation_error(raw: bytes) -> None:
    value = outcome(parse_json, raw, "the payload")
    if isinstance(value, JobError):
        assert value.reason is Reason.VALIDATION
    else:
        assert value == json.loads(raw)


@pytest.mark.parametrize("raw", [b"NaN", b'{"a": Infinity}', b'["NaN", -Infinity]'])
def test_what_is_no_number_is_called_so(raw: bytes) -> None:
    with pytest.raises(JobError, match=r"x is not JSON: .*; NaN and infinity are not JSON, and .* 1E400, is read as"):
        parse_json(raw, "x")


@pytest.mark.parametrize("value", [float("inf"), [1, -float("inf")], from_json(b'{"a": 1E400}')])
def test_a_number_that_json_cannot_hold_is_called_so(value: object) -> None:
    with pytest.raises(JobError, match="a number too large for a float, such as 1E400"):
        encode_json(value, "x")


@pytest.mark.parametrize("raw", [b'["NaN" x', b'"Infinity', b"{"])
def test_what_is_no_json_for_another_reason_is_not_called_so(raw: bytes) -> None:
    with pytest.raises(JobError) as caught:
        parse_json(raw, "x")
    assert "infinity" not in caught.value.message


@pytest.mark.parametrize("number", ["1E400", "-1e999", "1.5e+400", "1" + "0" * 400 + ".0", "1e" + "0" * 30 + "309"])
def test_a_number_too_large_for_a_float_is_refused_by_its_name(number: str) -> None:
    for raw in (number, f'{{"a": ["1E400", "\\"", {number}]}}'):
        with pytest.raises(JobError, match=r"x holds .*, a number too large for a float") as caught:
            check_sizes(raw.encode(), "x")
        assert number[:30] in caught.value.message
        assert len(caught.value.message) < 120


@pytest.mark.parametrize("raw", [b"1e308", b"1e-400", b'"1E400"', b'{"1E400": 0}', b"9" * 400, b"0.0000e999"])
def test_what_is_no_number_too_large_is_taken(raw: bytes) -> None:
    check_sizes(raw, "x")


def test_nan_in_a_string_is_a_word_like_any_other() -> None:
    assert encode_json(["NaN", "Infinity"], "x") == b'["NaN","Infinity"]'
    check_numbers(b'{"NaN": "-Infinity"}', "x")
    with pytest.raises(JobError):
        check_numbers(b'{"NaN": -Infinity}', "x")


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": -math.inf}, "\ud800", {"\udfff": 1}, b"\xff", object(), CYCLE, deep(195),
     deep(254), deep(5000), 10**5000],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises(JobError, match="the payload") as caught:
        encode_json(value, "the payload")
    assert caught.value.reason is Reason.VALIDATION


@given(st.integers(0, 260))
def test_what_is_taken_can_be_read_by_the_worker(levels: int) -> None:
    raw = outcome(encode_json, deep(levels), "the payload")
    if isinstance(raw, JobError):
        assert levels > 180
    else:
        assert parse_json(raw, "the payload") == deep(levels)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value = [[{}]] * 5000
    assert json.loads(encode_json(value, "x")) == value
    assert encode_json("1" * 5000, "x") == b'"' + b"1" * 5000 + b'"', "nor are many digits in a string a number"


def test_the_servers_own_headers_stand_below_a_strangers() -> None:
    raw = block(b"Nats-Sequence: 1", b"Nats-Subject: evil", b"Nats-Sequence: 42", b"Nats-Subject: true")
    assert value_of(raw, b"Nats-Sequence") == b"42"
    assert value_of(raw, b"Nats-Subject") == b"true"
    assert value_of(raw, b"Nats-Stream") is None


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_no_header_begins_a_line_of_its_own(end: str) -> None:
    for pairs in ({"Jsjobs-Tenant": f"acme{end}Jsjobs-Id: at-x"}, {f"X{end}Y": "z"}, {"A": "b", "X": end}):
        with pytest.raises(JobError, match="there is a line break in the header") as refused:
            header_block(pairs)
        assert refused.value.reason is Reason.VALIDATION
