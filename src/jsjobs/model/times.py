"""Moments and spans of time, as they are sent and as callers give them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from jsjobs.model.errors import JobError

_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def rfc3339(moment: datetime) -> str:
    """Format an aware moment as it is sent: RFC 3339, UTC, such as `2026-11-22T12:00:00Z`."""
    text = (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()
    return text[:-6] + "Z"  # instead of +00:00


def parse_rfc3339(text: str) -> datetime:
    """Parse an RFC 3339 time, and nothing else, into a moment in UTC; its fraction is cut to microseconds.

    Raises:
        ValueError: If the text is not an RFC 3339 time.
    """
    match = _RFC_3339.fullmatch(text)
    if match is not None:
        date, time, fraction, zone = match.groups()
        zone = "+00:00" if zone in {"Z", "z"} else zone
        try:
            return datetime.fromisoformat(f"{date}T{time}.{(fraction or '0')[:6]:0<6}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):  # the 31st of February; the year 1, east of here
            pass
    raise ValueError(f"must be an RFC 3339 time such as 2026-11-22T12:00:00Z, not {text[:40]!r}")


def checked_seconds(what: str, value: object, *, most: float) -> float:
    """Return seconds above zero, given as a number or as a timedelta.

    Args:
        what: What the seconds are of, for the error.
        value: What was given.
        most: The largest allowed number of seconds.

    Raises:
        JobError: `Validation`, naming what was given instead.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise JobError.from_validation(f"{what} must be seconds or a timedelta, not {type(value).__name__}")
    try:
        seconds = float(seconds)
    except OverflowError:  # an integer of hundreds of digits
        seconds = math.inf
    if not 0 < seconds <= most:  # refuses NaN too
        raise JobError.from_validation(f"{what} must be above 0 seconds and at most {most:,.0f}, not {seconds:g}")
    return seconds
