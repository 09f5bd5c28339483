"""The expiry of a job: the time until which it is worth starting."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from jsjobs.model.due import LONGEST, read_moment, read_seconds
from jsjobs.model.errors import JobError
from jsjobs.model.times import rfc3339

Expired = Literal["dead_letter", "drop"]
"""What becomes of an expired job: a dead letter, or nothing but its status."""


def _read(value: Any) -> float | datetime | None:
    """Return what was given as seconds, or as a moment in UTC."""
    if value is None:
        return None
    if isinstance(value, str | datetime):
        return read_moment(value)
    return read_seconds(value)


Expires = Annotated[
    float | datetime | None,
    BeforeValidator(_read),
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
