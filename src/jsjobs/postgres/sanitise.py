"""Make storable whatever anyone may have published: no letter can be refused for its content.

Texts in Postgres hold no NUL characters and no lone surrogates; each becomes U+FFFD. Bodies and raw header blocks are
bytes and stay as they are.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NoReturn

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# An index entry holds 2,704 bytes at most, and a character takes up to four.
_MAX_KEY = 255
_DIGEST = 16
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(2999, 12, 31, 23, 59, 59, tzinfo=UTC)
_MAX_INT = 2**31 - 1
_MAX_ENTITY = 256
_PRIORITIES = {"critical", "high", "normal", "low"}
MAX_BODY = 2**20
"""The most bytes kept of a body or of headers: a server's default maximum, and more than a queue accepts."""
MAX_HISTORY = 2 * MAX_BODY
"""The most bytes kept of a history, as JSON."""
# Far below the recursion limits of Python and Postgres.
_MAX_DEPTH = 100
# Postgres writes numbers out in full: 1e131071 is 8 characters in the body and 131,072 in each answer. Python reads no
# integer of more than 4,300 digits.
_MAX_DIGITS = 400
_MAX_ALL_DIGITS = 10_000
_MAX_GROWTH = 4


def text(value: str) -> str:
    """Replace what a text column refuses: each NUL and each lone surrogate becomes U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", value)


def key(value: str) -> str:
    """Sanitise an indexed text as `text` does, and cut it to 255 characters; a digest keeps a changed one unique."""
    return _unique(text(value), value, _MAX_KEY)


def tenant(value: str) -> str:
    """Sanitise a tenant as `key` does, and make it printable and strip it: else a replay's job would have no tenant."""
    return _unique(_printable(value), value, _MAX_KEY)


def entity(value: str) -> str:
    """Sanitise an entity as `tenant` does, but with up to 256 characters: no queue accepts another one."""
    return _unique(_printable(value), value, _MAX_ENTITY)


def priority(value: str) -> str:
    """Return the priority if it is a known one, else `normal`."""
    return value if value in _PRIORITIES else "normal"


def _printable(value: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in value).strip()


def _unique(clean: str, value: str, most: int) -> str:
    if clean == value and len(value) <= most:
        return value
    digest = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{clean[: most - _DIGEST - 1]}~{digest}"


def body(value: bytes) -> bytes:
    """Cut the bytes after a mebibyte: no queue accepts more."""
    return value[:MAX_BODY]


def document(items: list[Any], most: int) -> str:
    """Write a list as JSON of at most `most` bytes; items at its end that have no room are left out."""
    kept = list(items)
    while len(written := json.dumps(kept, ensure_ascii=False, separators=(", ", ": ")).encode()) > most:
        kept = kept[: len(kept) * most // len(written)]
    return written.decode()


def count(value: int) -> int:
    """Bring a number into the range of an `int` column."""
    return min(max(value, 0), _MAX_INT)


def moment(value: datetime) -> datetime:
    """Return a time in UTC, in the years 2000 to 2999; one without a zone is read as UTC, not as this machine's."""
    try:
        in_utc = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:  # within a day of year 1 or 9999
        in_utc = value.replace(tzinfo=UTC)
    return min(max(in_utc, _FIRST), _LAST)


def json_text(payload: bytes) -> str | None:
    """Return the body as text for `jsonb`, or None where it is not JSON or could not be stored and read as such.

    The latter holds for NaN and Infinity, for more than 100 levels, and for exponents that make a number, or all
    numbers together, very long.
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
    """Read a `jsonb` column; None where someone else wrote what Python cannot read, so that it blocks no list."""
    try:
        return None if stored is None else json.loads(stored)
    except (ValueError, RecursionError):
        return None


def _written_out(number: str) -> int:
    exponent = number.lower().partition("e")[2] or "0"
    # The first check keeps an exponent that is itself too long from being parsed.
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
