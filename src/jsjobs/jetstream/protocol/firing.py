"""The headers of a firing of a periodic schedule: which schedule fired, and when it was due."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from jsjobs.model.times import parse_rfc3339
from jsjobs.model.timetable import Timetable

NAME = "Jsjobs-Schedule"
TIMETABLE = "Jsjobs-Timetable"
ZONE = "Jsjobs-Time-Zone"
_NEXT = "Nats-Schedule-Next"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIRING_ID = re.compile(r"at-(.+)-([0-9]{8}T[0-9]{6}Z)")
_SANE = range(2000, 2300)
"""The years with which a timetable can count."""


class Firing(NamedTuple):
    """One firing of a periodic schedule."""

    name: str
    timetable: Timetable
    next_at: datetime
    """When the next firing will be: the server does not tell a firing's own time."""

    def due(self, stored_at: datetime) -> datetime:
        """Return when it was due, by the timetable.

        Args:
            stored_at: When the queue stored it.
        """
        return self.timetable.due_before(self.next_at, stored_at)

    def job_id(self, due: datetime) -> str:
        """Return the id of its job: each due time of a schedule is one job, however often it is delivered."""
        return f"at-{self.name}-{due.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def is_schedule_name(text: str) -> bool:
    """Return whether a schedule can have this name: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`."""
    return _NAME.fullmatch(text) is not None


def is_firing_id(text: str) -> bool:
    """Return whether an id looks like a firing's.

    No other message may carry such an id, or it would run in the firing's place.
    """
    return _FIRING_ID.fullmatch(text) is not None


def parse_firing_id(text: str) -> tuple[str, datetime] | None:
    """Return the schedule's name and the due time in a firing's id, or None for any other id."""
    match = _FIRING_ID.fullmatch(text)
    try:
        return None if match is None else (match[1], datetime.strptime(match[2], "%Y%m%dT%H%M%S%z"))
    except ValueError:
        return None


def read_firing(name: str, pairs: Sequence[tuple[str, str]]) -> Firing | None:
    """Return the firing in a job's message, or None if the schedule's job was published in another way.

    Args:
        name: The value of the header `Jsjobs-Schedule`.
        pairs: All headers. Only in its own spelling does the server keep strangers from setting the next time.

    Raises:
        ValueError: If no schedule can have that name, or the time cannot be read.
        JobError: `Validation`, if the timetable cannot be read.
    """
    headers: dict[str, str] = {}
    for header, value in pairs:
        headers.setdefault(header, value)
    next_at = headers.get(_NEXT)
    if next_at is None or next_at == "purge":
        return None
    if not is_schedule_name(name):
        raise ValueError(f"{name[:80]!r} is not the name of a schedule")
    timetable, moment = Timetable.parse(headers.get(TIMETABLE, ""), headers.get(ZONE)), parse_rfc3339(next_at)
    if moment.year not in _SANE:
        raise ValueError(f"{next_at[:40]!r} is not a time at which a schedule fires")
    return Firing(name, timetable, moment)
