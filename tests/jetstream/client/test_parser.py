import asyncio
import logging
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged import damaged
from jsjobs.jetstream.client.parser import ProtocolError, WireParser

Seen = list[tuple[Any, ...]]
TOKENS = st.binary(min_size=1, max_size=12).map(lambda raw: raw.translate(None, b" \r\n\t") or b"x")


class Server:
    """Takes what the server says besides messages."""

    def __init__(self) -> None:
        self.seen: Seen = []

    def on_ping(self) -> None:
        self.seen.append(("ping",))

    def on_pong(self) -> None:
        self.seen.append(("pong",))

    def on_info(self, info: dict[str, Any]) -> None:
        self.seen.append(("info", info))

    def on_err(self, text: str) -> None:
        self.seen.append(("err", text))


def parse(*chunks: bytes, receivers: tuple[bytes, ...] = ()) -> Seen:
    server = Server()
    parser = WireParser(server)
    for sid in receivers:
        parser.receivers[sid] = lambda *message, sid=sid: server.seen.append(("got", sid, *message))
    for chunk in chunks:
        parser.feed(chunk)
    return server.seen


def message(subject: bytes, sid: bytes, reply: bytes, header: bytes, data: bytes) -> bytes:
    middle = b" " + reply if reply else b""
    if header:
        sizes = b"%d %d" % (len(header), len(header) + len(data))
        return b"HMSG %b %b%b %b\r\n%b%b\r\n" % (subject, sid, middle, sizes, header, data)
    return b"MSG %b %b%b %d\r\n%b\r\n" % (subject, sid, middle, len(data), data)


MESSAGES = st.tuples(
    TOKENS, st.sampled_from([b"1", b"2"]), st.just(b"") | TOKENS, st.binary(max_size=30), st.binary(max_size=60)
)
CONTROLS = {
    b"PING\r\n": ("ping",),
    b"PONG\r\n": ("pong",),
    b"+OK\r\n": None,
    b'INFO {"max_payload": 7}\r\n': ("info", {"max_payload": 7}),
    b"-ERR 'Stale Connection'\r\n": ("err", "'Stale Connection'"),
}


@given(st.lists(MESSAGES | st.sampled_from(list(CONTROLS)), max_size=8), st.lists(st.integers(0, 600), max_size=12))
def test_every_cut_of_the_stream_gives_the_same_messages(items: list[Any], cuts: list[int]) -> None:
    stream, expected = b"", []
    for item in items:
        if isinstance(item, bytes):
            stream += item
            expected += [CONTROLS[item]] if CONTROLS[item] else []
        else:
            stream += message(*item)
            subject, sid, reply, header, data = item
            expected.append(("got", sid, subject, reply, header, data))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[begin:end] for begin, end in pairwise(edges)]
    assert parse(*chunks, receivers=(b"1", b"2")) == expected
    of_the_second = [item for item in expected if item[:2] == ("got", b"2")]
    assert parse(*chunks, receivers=(b"1",)) == [item for item in expected if item not in of_the_second]


def test_byte_by_byte() -> None:
    stream = (
        message(b"a", b"1", b"r", b"NATS/1.0\r\n\r\n", b"MSG x 1 5\r\n")
        + b"PING\r\n"
        + message(b"b", b"2", b"", b"", b"")
        + message(b"c", b"3", b"", b"", b"of a subscription that has ended")
    )
    assert parse(*(bytes([byte]) for byte in stream), receivers=(b"1", b"2")) == [
        ("got", b"1", b"a", b"r", b"NATS/1.0\r\n\r\n", b"MSG x 1 5\r\n"),
        ("ping",),
        ("got", b"2", b"b", b"", b"", b""),
    ]


@pytest.mark.parametrize("subject", [b"\x0b", b"a\x0cb", b"\xff\xfe", b"\x1c\x85\xa0", b"HMSG", b"'", b"\x00", b"5"])
def test_a_strangers_subject_is_a_subject_like_any_other(subject: bytes) -> None:
    for header in (b"", b"NATS/1.0"):
        for reply in (b"", subject):
            seen = parse(message(subject, b"1", reply, header, b"x") + b"PING\r\n", receivers=(b"1",))
            assert seen == [("got", b"1", subject, reply, header, b"x"), ("ping",)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b" PING\r\n",
        b"MSG\r\n",
        b"MSG \r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 -5\r\nabc\r\n",
        b"MSG a 1 r s 5\r\nhello\r\n",
        b"HMSG a 1 5\r\nhello\r\n",
        b"HMSG a 1 20 10\r\n0123456789\r\n",
        b"HMSG a 1 -1 10\r\n0123456789\r\n",
        b"HMSG a 1 r s 5 10\r\n0123456789\r\n",
        b"x" * (2 * 2**20),
    ],
)
def test_what_is_no_nats_protocol_ends_the_connection(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(garbage, receivers=(b"1",))


INFOS = st.sampled_from([b'INFO {"max_payload": 7}\r\n', b'INFO {"a": [1, "b"]}\r\n'])
FRAMES = st.lists(MESSAGES.map(lambda item: message(*item)) | st.sampled_from(list(CONTROLS)), min_size=1, max_size=4)
STREAMS = INFOS | FRAMES.map(b"".join)
BYTES = st.binary(max_size=2) | st.sampled_from([b"", b" ", b"\r\n", b"-1", b"9", b"{", b'"', b"\xff"])


def test_no_bytes_hang_the_parser_or_end_it_in_an_error_that_is_not_known() -> None:
    ends: Counter[str] = Counter()

    @given(damaged(damaged(STREAMS, BYTES), BYTES))
    def look(stream: bytes) -> None:
        try:
            seen = parse(stream, receivers=(b"1",))
        except ProtocolError:
            ends["refused"] += 1
        except ValueError as error:
            ends["no JSON"] += 1
            assert b"INFO" in stream.upper(), error  # noqa: PT017 - either is right
        else:
            ends["read"] += 1
            for kind, *message in seen:
                parts = [part for part in message if isinstance(part, bytes)]
                assert kind in {"got", "ping", "pong", "info", "err"}
                assert all(part in stream for part in parts)

    look()
    assert ends["read"] + ends["no JSON"] > ends.total() / 4
    assert ends["refused"] + ends["no JSON"] > 0


def test_info_that_is_no_json_is_an_error_the_read_loop_can_see() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        parse(b"INFO {nonsense\r\n")


@pytest.mark.parametrize("raised", [KeyError("x"), RecursionError(), asyncio.CancelledError()], ids=repr)
def test_a_receiver_that_raises_costs_its_own_message_alone(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    parser = WireParser(server)
    taken = []

    def receiver(_subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        if data == b"bad":
            raise raised
        taken.append(data)

    parser.receivers[b"1"] = receiver
    stream = b"".join(message(b"s", b"1", b"", b"", data) for data in (b"a", b"bad", b"b")) + b"PING\r\n"
    with caplog.at_level(logging.ERROR, "jsjobs.connection"):
        parser.feed(stream)
    assert taken == [b"a", b"b"]
    assert server.seen == [("ping",)]
    assert "was skipped" in caplog.text


def test_a_half_received_message_is_forgotten_with_its_connection() -> None:
    server = Server()
    parser = WireParser(server)

    parser.feed(b"MSG a 1 10\r\nhalf")
    parser.reset()
    parser.feed(b"PING\r\n")
    assert server.seen == [("ping",)]
