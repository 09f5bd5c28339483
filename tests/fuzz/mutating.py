"""Inputs that a stranger might send: valid ones changed a little or a lot, and bytes at random. Seeded, so replayable."""

import json
import random
from collections.abc import Sequence
from typing import Any

HOSTILE_WORDS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b":",
    b".",
    b"..",
    b"*",
    b">",
    b"-",
    b"%",
    b"%2E",
    b"%ff",
    b"'",
    b'"',
    b"\\",
    b"\x1b[31m",
    b"\x7f",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",  # a lone surrogate, as no UTF-8 has it
    b"\\ud800",
    b'"\\ud800"',
    "\u202e".encode(),
    "²".encode(),
    "٣".encode(),
    "é".encode(),
    "😀".encode(),
    b"\xef\xbb\xbf",
    b"0",
    b"-1",
    b"+1",
    b" 1",
    b"1_0",
    b"0x10",
    b"007",
    b"1.5",
    b"1e999",
    b"-1e400",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"2147483648",
    b"9007199254740993",
    b"9223372036854775807",
    b"18446744073709551616",
    b"9" * 400,
    b"9" * 4301,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[" * 300,
    b"[" * 150 + b"]" * 150,
    b'{"a":' * 250,
    b"NATS/1.0\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"\r\nNats-Sequence: 1",
    b"\r\nNats-Msg-Id: x",
    b"\r\nJsjobs-Id: at-x",
    b"$JS.ACK.",
    b"$JS.API.",
    b"$KV.jobs.",
    b"$SYS.",
    b"_INBOX.",
    b"jobs.",
    b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:60Z",
    b"2026-11-22T12:00:00",
    b"2026-11-22T12:00:00.123456789+23:59",
)
MOST_BYTES = 2**20
_MOST_REPEATED = 60_000
_HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63),
    10**400,
    "",
    " ",
    "\0",
    "a\x00b",
    "\x1b[2J",
    "\ud800",
    "\u202e",
    "é" * 300,
    "x" * 5000,
    "NaN",
    "1",
    "2026-11-22T12:00:00",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"": {}},
)


class Mutator:
    """Makes inputs from valid ones; two of the same seed make the same."""

    def __init__(self, seed: object, corpus: Sequence[bytes], words: Sequence[bytes] = ()) -> None:
        self._rng = random.Random(repr(seed))
        self._corpus = tuple(corpus)
        self._words = (*HOSTILE_WORDS, *words)
        self._values = [_json_or_none(each) for each in corpus]

    def next(self) -> bytes:
        """One input, no larger than a server's message."""
        return self._made()[:MOST_BYTES]

    def _made(self) -> bytes:
        rng = self._rng
        kind = rng.random()
        if kind < 0.02:
            return rng.choice(self._corpus)
        if kind < 0.08:
            return rng.randbytes(rng.randrange(64))
        if kind < 0.10:
            return b"".join(rng.choices(self._words, k=rng.randrange(1, 9)))
        number = rng.randrange(len(self._corpus))
        data, value = self._corpus[number], self._values[number]
        if value is not None and rng.random() < 0.6:
            data = _written(_changed(rng, value[0]))
            if rng.random() < 0.7:
                return data
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            data = self._changed_bytes(data)
        return data

    def _changed_bytes(self, data: bytes) -> bytes:
        rng = self._rng
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((0, 1, 1, 2, 4, 16, len(data))))
        match rng.randrange(8):
            case 0:  # other bytes
                return data[:begin] + rng.randbytes(end - begin) + data[end:]
            case 1 | 2 | 3:  # a word in the place of some bytes
                return data[:begin] + rng.choice(self._words) + data[end:]
            case 4:  # some bytes less
                return data[:begin] + data[end:]
            case 5:  # some bytes more than once
                piece = data[begin:end] or b"0"
                often = rng.choice((2, 2, 3, 10, 10, 100)) if rng.random() < 0.99 else _MOST_REPEATED // len(piece)
                return data[:begin] + piece * often + data[end:]
            case 6:  # the end of another one
                other = rng.choice(self._corpus)
                return data[:begin] + other[rng.randrange(len(other) + 1) :]
            case _:  # one bit
                if begin == len(data):
                    return data[:-1]
                return data[:begin] + bytes([data[begin] ^ (1 << rng.randrange(8))]) + data[begin + 1 :]


def _json_or_none(data: bytes) -> tuple[Any] | None:
    try:
        return (json.loads(data),)
    except ValueError:
        return None


def _changed(rng: random.Random, value: Any) -> Any:
    """The value with something in it changed: replaced, left out, put twice, nested or made long."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {each: kept for each, kept in value.items() if each != name}
            case 1:
                return {
                    **value,
                    rng.choice(("", "\0", "x" * 300, "job_id", "extra", "\ud800")): rng.choice(_HOSTILE_VALUES),
                }
            case _:
                return {**value, name: _changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value * rng.choice((2, 10, 50))
            case _:
                return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    if rng.random() < 0.05:
        for _ in range(rng.choice((5, 95, 190, 250, 700))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(_HOSTILE_VALUES)


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()
