"""The times of a job: when it is due, and by when it must have started."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from jsjobs.model.errors import JobError
from jsjobs.model.times import checked_seconds, parse_rfc3339, rfc3339

LONGEST = 1e9
"""Seconds: some thirty years."""
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""The server counts nanoseconds since 1970 in 63 bits, which end in 2262."""


def _read_delay(value: Any) -> float | None:
    if value is None:
        return None
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return _read_seconds(value)


def _read_seconds(value: Any) -> float:
    try:
        return checked_seconds("it", value, most=LONGEST)
    except JobError as error:
        raise ValueError(error.message) from None


def _read_at(value: Any) -> datetime | None:
    return None if value is None else _read_moment(value)


def _read_moment(value: Any) -> datetime:
    if isinstance(value, str):
        return parse_rfc3339(value)
    if not isinstance(value, datetime):
        raise ValueError(f"it must be an aware datetime, not {type(value).__name__}")  # noqa: TRY004 - as pydantic has it
    if value.tzinfo is None:
        raise ValueError("the time must be aware of its zone: datetime.now(UTC), not datetime.now()")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("that is not a time that UTC can express") from None


Delay = Annotated[
    float | None,
    PlainValidator(_read_delay),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": LONGEST}, {"type": "null"}]}),
]
"""Seconds from now, or a timedelta."""
At = Annotated[
    datetime | None,
    PlainValidator(_read_at),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}),
]
"""An aware datetime; in JSON an RFC 3339 text."""


Expired = Literal["dead_letter", "drop"]
"""What becomes of an expired job: a dead letter, or nothing but its status."""


def _read_expires(value: Any) -> float | datetime | None:
    """Return what was given as seconds, or as a moment in UTC."""
    if value is None:
        return None
    if isinstance(value, str | datetime):
        return _read_moment(value)
    return _read_seconds(value)


Expires = Annotated[
    float | datetime | None,
    BeforeValidator(_read_expires),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST},
                {"type": "string", "format": "date-time"},
                {"type": "null"},
            ]
        }
    ),
]
"""Seconds above 0 from when the job is due, a timedelta, or an aware datetime; in JSON a number or an RFC 3339 text."""


def due_at(delay: float | None, at: datetime | None, now: datetime) -> datetime | None:
    """Return when a job is due; None: at once.

    Raises:
        ValueError: If both are given, or the job would be due later than the server can count.
    """
    if delay is not None and at is not None:
        raise ValueError("give delay or at, not both")
    due = at if delay is None else now + timedelta(seconds=delay)
    if due is not None and due > LATEST:
        raise ValueError(f"the job would be due at {rfc3339(due)}, later than {rfc3339(LATEST)}")
    return due if due is not None and due > now else None


def checked_due(delay: float | timedelta | None, at: datetime | None, now: datetime) -> datetime | None:
    """Return when a job is due as `due_at` does, but check what a caller gave.

    Raises:
        JobError: `Validation`, saying which of the two cannot be used, and why.
    """
    name = "delay"
    try:
        seconds = _read_delay(delay)
        name = "at"
        return due_at(seconds, _read_at(at), now)
    except ValueError as error:
        text = str(error) if delay is not None and at is not None else f"{name}: {error}"
        raise JobError.from_validation(text) from error


def expires_at(expires: float | datetime, due: datetime) -> datetime:
    """Return the moment by which a job must have started.

    Args:
        expires: Seconds from when it is due, or the moment itself.
        due: The earliest moment at which it can start.

    Raises:
        JobError: `Validation`, if that moment has passed when the job is due.
    """
    try:
        moment = expires if isinstance(expires, datetime) else due + timedelta(seconds=expires)
    except OverflowError as error:
        raise JobError.from_validation(f"the job would expire after the year 9999: {expires:g} seconds") from error
    if moment <= due:
        raise JobError.from_validation(
            f"the job would expire at {rfc3339(moment)}, before it is due at {rfc3339(due)}: it would never run"
        )
    return moment
