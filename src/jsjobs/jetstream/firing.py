"""What a firing of a periodic schedule says of itself: which schedule it is of, and when it was due."""

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
"""Years: what a timetable can count with."""


class Firing(NamedTuple):
    """One firing."""

    name: str
    timetable: Timetable
    next_at: datetime
    """When the next one will be: of a firing's own time the server tells nothing."""

    def due(self, stored_at: datetime) -> datetime:
        """When it was due, by the timetable.

        Args:
            stored_at: When the queue stored it.
        """
        return self.timetable.due_before(self.next_at, stored_at)

    def job_id(self, due: datetime) -> str:
        """The id of its job: each due time of a schedule is one job, however often it is delivered."""
        return f"at-{self.name}-{due.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def is_schedule_name(text: str) -> bool:
    """Whether a schedule can have this name: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`."""
    return _NAME.fullmatch(text) is not None


def is_firing_id(text: str) -> bool:
    """Whether an id looks like a firing's: nobody else's message may carry it, or it would run in its place."""
    return _FIRING_ID.fullmatch(text) is not None


def parse_firing_id(text: str) -> tuple[str, datetime] | None:
    """The schedule's name and the due time in the id of a firing; None for any other id."""
    match = _FIRING_ID.fullmatch(text)
    try:
        return None if match is None else (match[1], datetime.strptime(match[2], "%Y%m%dT%H%M%S%z"))
    except ValueError:
        return None


def read_firing(name: str, pairs: Sequence[tuple[str, str]]) -> Firing | None:
    """The firing that a job's message is; None if the schedule's job was published in another way.

    Args:
        name: What the header `Jsjobs-Schedule` says.
        pairs: All headers. Only as the server itself spells it does it keep strangers from saying when the next is.

    Raises:
        ValueError: If the name can be none, or the time cannot be read.
        JobError: `Validation`, if the timetable cannot be read.
    """
    headers: dict[str, str] = {}
    for header, value in pairs:
        headers.setdefault(header, value)
    next_at = headers.get(_NEXT)
    if next_at is None or next_at == "purge":
        return None
    if not is_schedule_name(name):
        raise ValueError(f"{name[:80]!r} is no name of a schedule")
    timetable, moment = Timetable.parse(headers.get(TIMETABLE, ""), headers.get(ZONE)), parse_rfc3339(next_at)
    if moment.year not in _SANE:
        raise ValueError(f"{next_at[:40]!r} is no time at which a schedule fires")
    return Firing(name, timetable, moment)
