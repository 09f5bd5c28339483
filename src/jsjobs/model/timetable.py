"""When a periodic job is due: the header that makes the server fire it, and a preview of what the server will do.

The server alone decides when it fires. What is computed here is for people who look ahead, and to tell a firing's due
time; `CronSim` reads six fields as the server does, and they agree to the second, also where clocks change (between 1
and 3 o'clock, by an hour): a wall-clock time that is left out is no firing, one that comes twice fires twice. They
differ where the server (2.15.1) itself goes wrong:

- Where clocks skip midnight (Beirut, Cairo, Havana, Santiago, the Azores), a server that looks for the next day across
  that night goes on an hour aside: it misses firings of the first day it finds, or that whole day (nats-server issue
  8543). The preview has them.
- Where clocks change by half an hour (Lord Howe), its steps of an hour miss firings, even a day's only one. `next`
  mostly misses the same ones; `due_before`, which looks back, finds them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import islice
from typing import Self
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim

from jsjobs.model.checks import checked_text
from jsjobs.model.cron_fields import six_fields
from jsjobs.model.errors import JobError
from jsjobs.model.times import checked_seconds

MAX_TEXT = 512
"""Characters of a timetable: more than any useful cron, little enough for a header."""
MAX_INTERVAL = 3650 * 86_400
"""Seconds: ten years."""
MAX_PREVIEW = 100
"""Ticks that are computed at once."""

_EVERY = re.compile(r"every ([1-9][0-9]{0,8})s")
_READABLE = re.compile(r"[ -~\t]*")
_NO_PLACES = frozenset({"Factory", "localtime"})
"""Files in a zone database that name no zone: each machine has its own idea of them."""
_HALF_SECOND = timedelta(seconds=0.5)
_SKEW = timedelta(seconds=5)
"""Between the clocks of two nodes of a cluster, at most: the one that fires, and the one that stores the firing."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a periodic job is due; made by `cron`, `every` or `parse`, which check it."""

    text: str
    """As it was written, without needless spaces; `every 30s` for an interval. `parse` reads it back."""
    spec: str
    """What the server is given: `@every 30s`, or six numeric cron fields, second first."""
    zone: str | None = None
    """The IANA time zone of a cron; None for UTC, and for an interval."""
    interval: int | None = None
    """Seconds between two ticks; None for a cron."""

    @classmethod
    def cron(cls, text: str, *, zone: str | None = None) -> Self:
        """A cron expression.

        Args:
            text: Five fields as in a crontab, six with the second in front, or a macro such as `@daily`. Names in any
                case, 7 for Sunday and ranges over the week's end are understood.
            zone: The IANA time zone whose clock it means, such as `Europe/Berlin`; UTC if not given. The server reads
                it from its own system's zone files, which bare container images lack: it then refuses the schedule.

        Raises:
            JobError: `Validation`, if the server could not do it, or crons do not agree on what it means.
        """
        tidied = _tidied(text)
        if tidied.lower().startswith("every "):
            raise JobError.from_validation(
                f"{tidied[:40]!r} is an interval, not a cron expression: give it as every, such as 30s, 1h or 1d; or "
                "write @hourly or @daily, or five fields such as '0 9 * * 1-5'"
            )
        return cls(text=tidied, spec=six_fields(tidied), zone=_checked_zone(zone))

    @classmethod
    def every(cls, seconds: float | timedelta) -> Self:
        """An interval, counted by the server from when it stores the schedule.

        Args:
            seconds: Whole seconds, or a timedelta of them; from one second to ten years.

        Raises:
            JobError: `Validation`, if it is anything else.
        """
        given = checked_seconds("an interval", seconds, most=MAX_INTERVAL)
        if given % 1:
            raise JobError.from_validation(f"an interval must be whole seconds, not {given:g}: the server counts those")
        return cls(text=f"every {int(given)}s", spec=f"@every {int(given)}s", interval=int(given))

    @classmethod
    def parse(cls, text: str, zone: str | None = None) -> Self:
        """Read `text` and `zone` of a timetable back.

        Raises:
            JobError: `Validation`, if they are no timetable's.
        """
        match = _EVERY.fullmatch(_tidied(text))
        if match is None:
            return cls.cron(text, zone=zone)
        if zone is not None:
            raise JobError.from_validation("an interval has no time zone: leave it out, or write the times as cron")
        return cls.every(int(match[1]))

    def next(self, after: datetime, count: int = 5, *, since: datetime | None = None) -> list[datetime]:
        """The next ticks, in UTC; a preview, which no pause of the server or late firing is in.

        Args:
            after: Only ticks later than this.
            count: How many, 1 to 100.
            since: When the schedule was stored: an interval's ticks are counted from there. A cron needs none.

        Raises:
            JobError: `Validation`, for a moment without a zone, another count, or an interval without `since`.
        """
        after = _aware("after", after)
        if type(count) is not int or not 1 <= count <= MAX_PREVIEW:  # True is no count
            raise JobError.from_validation(f"a preview has 1 to {MAX_PREVIEW} ticks, not {str(count)[:40]}")
        if self.interval is None:
            ticks = CronSim(self.spec, after.astimezone(self._clock))
            return [tick.astimezone(UTC) for tick in islice(ticks, count)]
        if since is None:
            raise JobError.from_validation("an interval's ticks are counted from when it was stored: give `since`")
        start, step = _rounded(_aware("since", since)), timedelta(seconds=self.interval)
        passed = max(0, (after - start) // step)
        return [start + (passed + number) * step for number in range(1, count + 1)]

    def due_before(self, next_at: datetime, seen_at: datetime) -> datetime:
        """When a firing was due, in UTC: with it the server tells only when the next one will be.

        It is the tick before `next_at`; where that is more than some seconds after the firing itself, since the server
        went another way than the preview, or took up an interval anew after it had been down, it is the second in which
        it fired.

        Args:
            next_at: The server's `Nats-Schedule-Next`.
            seen_at: When the firing was stored.
        """
        next_at, seen_at = next_at.astimezone(UTC), seen_at.astimezone(UTC)
        if self.interval is None:
            due = next(CronSim(self.spec, next_at.astimezone(self._clock), reverse=True)).astimezone(UTC)
        else:
            due = next_at - timedelta(seconds=self.interval)
        # What is a little later is another node's clock.
        return due if due <= seen_at + _SKEW else seen_at.replace(microsecond=0)

    @property
    def _clock(self) -> ZoneInfo | timezone:
        return UTC if self.zone is None else ZoneInfo(self.zone)


def _tidied(text: str) -> str:
    """The text with single spaces, if it can be a timetable at all."""
    checked_text("a timetable", text)
    if len(text) > MAX_TEXT:
        raise JobError.from_validation(f"a timetable has {MAX_TEXT} characters at most, not {len(text)}")
    if not _READABLE.fullmatch(text):
        raise JobError.from_validation(f"a timetable is plain ASCII in one line, not {text[:40]!a}")
    return " ".join(text.split())


def _checked_zone(zone: str | None) -> str | None:
    if zone is None:
        return None
    known = _zones()
    if checked_text("a time zone", zone) not in known:
        alike = next((name for name in known if name.lower() == zone.lower()), "Europe/Berlin")
        raise JobError.from_validation(f"{zone[:40]!a} is no IANA time zone that is known here; one is {alike}")
    return None if zone == "UTC" else zone


@cache
def _zones() -> frozenset[str]:
    """Every name that is a zone: files of other names, or outside of the database, are not even looked for."""
    return frozenset(available_timezones()) - _NO_PLACES


def _aware(what: str, moment: object) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise JobError.from_validation(
            f"`{what}` must be a datetime with a zone: datetime.now(UTC), not datetime.now()"
        )
    return moment.astimezone(UTC)


def _rounded(moment: datetime) -> datetime:
    """To the whole second, halves upwards, as the server does it."""
    return (moment + _HALF_SECOND).replace(microsecond=0)
