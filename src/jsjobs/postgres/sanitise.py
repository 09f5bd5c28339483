"""Makes what anyone may have published storable: no letter can be refused for what is in it.

Postgres has no NUL characters and no lone surrogates in texts; each becomes U+FFFD. Bodies and raw header blocks are
bytes and stay as they are.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NoReturn

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# An index entry holds 2,704 bytes at most, and a character takes up to four.
_MAX_KEY = 255
_DIGEST = 16
# asyncpg sends the very first and last as the infinities.
_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta.resolution
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta.resolution
_MAX_INT = 2**31 - 1
_MAX_ENTITY = 4096
MAX_BODY = 2**20
"""Bytes of a body or of headers that are kept: what a server carries out of the box, and more than a queue takes."""
MAX_HISTORY = 2 * MAX_BODY
"""Bytes of a history that are kept, as JSON."""
# Far from where Python's and Postgres's recursion ends.
_MAX_DEPTH = 100
# Postgres writes numbers out: 1e131071 is 8 characters in the body and 131,072 in each answer, and Python reads no
# integer of more than 4,300 digits.
_MAX_DIGITS = 400
_MAX_ALL_DIGITS = 10_000
_MAX_GROWTH = 4


def text(value: str) -> str:
    """Replaces what a text column refuses: each NUL and each lone surrogate becomes U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", value)


def key(value: str) -> str:
    """Like `text`, for what is indexed: also at most 255 characters; what had to change stays unique by a digest."""
    clean = text(value)
    if clean == value and len(value) <= _MAX_KEY:
        return value
    digest = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{clean[: _MAX_KEY - _DIGEST - 1]}~{digest}"


def entity(value: str) -> str:
    """Like `text`, and cut after 4,096 characters: no subject takes a longer one."""
    return text(value)[:_MAX_ENTITY]


def body(value: bytes) -> bytes:
    """The bytes, cut after a mebibyte: no queue takes more."""
    return value[:MAX_BODY]


def document(items: list[Any], most: int) -> str:
    """A list as JSON of at most so many bytes: what has no room at its end is left out."""
    kept = list(items)
    while len(written := json.dumps(kept, ensure_ascii=False, separators=(", ", ": ")).encode()) > most:
        kept = kept[: len(kept) * most // len(written)]
    return written.decode()


def count(value: int) -> int:
    """Brings a number into the range of an `int` column."""
    return min(max(value, 0), _MAX_INT)


def moment(value: datetime) -> datetime:
    """Gives a time in UTC; one without a zone is taken as UTC, not as this machine's."""
    try:
        in_utc = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:  # within a day of year 1 or 9999
        in_utc = value.replace(tzinfo=UTC)
    return min(max(in_utc, _FIRST), _LAST)


def json_text(payload: bytes) -> str | None:
    """Gives the body as text for `jsonb`, or None where it is not JSON or too wild to be stored and read as such.

    Too wild are NaN and Infinity, more than 100 levels, and exponents that make a number, or the whole, very long.
    """
    digits: list[int] = []

    def number(literal: str) -> float:
        digits.append(_written_out(literal))
        return 0.0

    try:
        body = payload.decode()
        value = json.loads(body, parse_float=number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    fits = sum(digits) <= max(_MAX_ALL_DIGITS, _MAX_GROWTH * len(body))
    return body if fits and _is_shallow(value) else None


def read_json(stored: str | None) -> Any:
    """Reads a `jsonb` column; None where someone else wrote what Python cannot read, which then blocks no list."""
    try:
        return None if stored is None else json.loads(stored)
    except (ValueError, RecursionError):
        return None


def _written_out(number: str) -> int:
    exponent = number.lower().partition("e")[2] or "0"
    # The first test keeps an exponent that is itself too long from being read.
    if len(number) > _MAX_DIGITS or len(number) + abs(int(exponent)) > _MAX_DIGITS:
        _refuse(number)
    return len(number) + abs(int(exponent))


def _refuse(_literal: str) -> NoReturn:
    raise ValueError("a number that jsonb does not hold")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return True
    return False
