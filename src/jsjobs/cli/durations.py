"""Durations as people write them, `250ms`, `4s`, `5m`, `1h30m`, `2d`, and moments."""

import re
from datetime import datetime

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:\.[0-9]{{1,3}})?){unit})?" for unit in _UNITS))

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")


def parse_duration(text: str) -> float:
    """Parse a duration, and return it in seconds.

    Args:
        text: Numbers with units (`d`, `h`, `m`, `s`, `ms`), the largest unit first.

    Raises:
        ValueError: If the text is not a duration above zero; the message says what to write.
    """
    match = _DURATION.fullmatch(text.strip())
    parts = {unit: float(number) for unit, number in match.groupdict().items() if number} if match else {}
    if not any(parts.values()):
        raise ValueError(_no_duration(text.strip()[:40]))
    return sum(number * _UNITS[unit] for unit, number in parts.items()) / 1000


def _no_duration(text: str) -> str:
    if _NUMBER.fullmatch(text) and float(text):
        return f"invalid duration {text!r}: it has no unit, write {text}s, {text}m or {text}h"
    return f"invalid duration {text!r}: write a number above zero and its unit, such as 250ms, 5s, 5m or 1h30m"


def parse_moment(text: str) -> datetime:
    """Parse a moment in ISO 8601; without a zone it is in the time zone of this machine.

    Raises:
        ValueError: If the text is not a moment.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is not a time: write 2026-12-24T18:00:00Z, or 2026-12-24T18:00 on this machine's clock"
        ) from None


def format_duration(seconds: float) -> str:
    """Format a duration to the millisecond, in the form that `parse_duration` reads.

    Args:
        seconds: The duration, zero or more.
    """
    rest = round(seconds * 1000)
    text = ""
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def format_age(seconds: float) -> str:
    """Format a duration in whole numbers of its largest unit alone, for tables: `3h`, `12s`."""
    for unit in ("d", "h", "m"):
        count = int(seconds * 1000) // _UNITS[unit]
        if count:
            return f"{count}{unit}"
    return f"{int(seconds)}s"
