"""The timetable of a periodic job: the header that makes the server fire it, and a preview of its firings.

The server alone decides when it fires. The times computed here are for people who look ahead, and to tell when a firing
was due. `CronSim` reads six fields as the server does, and the two agree to the second. They also agree where clocks
change between 1 and 3 o'clock by an hour: a wall-clock time that is skipped does not fire, one that comes twice fires
twice. They differ where the server itself goes wrong
(docs/server-quirks.md#clocks-that-change-at-midnight-or-by-half-an-hour):

- Around a midnight that clocks skip, the preview has the firings that the server misses.
- Where clocks change by half an hour, `next` mostly misses the same firings as the server; `due_before`, which looks
  back, finds them.
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
"""The most characters of a timetable: more than any useful cron has, and few enough for a header."""
MAX_INTERVAL = 3650 * 86_400
"""The longest interval, in seconds: ten years."""
MAX_PREVIEW = 100
"""The most ticks that are computed at once."""

_EVERY = re.compile(r"every ([1-9][0-9]{0,8})s")
_READABLE = re.compile(r"[ -~\t]*")
_NO_PLACES = frozenset({"Factory", "localtime"})
"""Files in a zone database that do not name a zone: they differ from machine to machine."""
_HALF_SECOND = timedelta(seconds=0.5)
_SKEW = timedelta(seconds=5)
"""The largest clock difference between two nodes of a cluster: the one that fires, and the one that stores it."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """The times at which a periodic job is due; created by `cron`, `every` or `parse`, which check it."""

    text: str
    """The timetable as it was written, without needless spaces; `every 30s` for an interval. `parse` reads it back."""
    spec: str
    """The form that the server is given: `@every 30s`, or six numeric cron fields, second first."""
    zone: str | None = None
    """The IANA time zone of a cron; None for UTC, and for an interval."""
    interval: int | None = None
    """Seconds between two ticks; None for a cron."""

    @classmethod
    def cron(cls, text: str, *, zone: str | None = None) -> Self:
        """Create a timetable from a cron expression.

        Args:
            text: Five fields as in a crontab, six with the second in front, or a macro such as `@daily`. Names in any
                case, 7 for Sunday and ranges over the end of the week are understood.
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
        """Create a timetable from an interval, which the server counts from when it stores the schedule.

        Args:
            seconds: Whole seconds, or a timedelta of whole seconds; from one second to ten years.

        Raises:
            JobError: `Validation`, if it is anything else.
        """
        given = checked_seconds("an interval", seconds, most=MAX_INTERVAL)
        if given % 1:
            raise JobError.from_validation(f"an interval must be whole seconds, not {given:g}")
        return cls(text=f"every {int(given)}s", spec=f"@every {int(given)}s", interval=int(given))

    @classmethod
    def parse(cls, text: str, zone: str | None = None) -> Self:
        """Read back the `text` and `zone` of a timetable.

        Raises:
            JobError: `Validation`, if they are not those of a timetable.
        """
        match = _EVERY.fullmatch(_tidied(text))
        if match is None:
            return cls.cron(text, zone=zone)
        if zone is not None:
            raise JobError.from_validation("an interval has no time zone: leave it out, or write the times as cron")
        return cls.every(int(match[1]))

    def next(self, after: datetime, count: int = 5, *, since: datetime | None = None) -> list[datetime]:
        """Return the next ticks, in UTC; a preview, which knows nothing of server downtime or late firings.

        Args:
            after: Only ticks later than this are returned.
            count: The number of ticks, 1 to 100.
            since: When the schedule was stored: an interval's ticks are counted from there. A cron does not need it.

        Raises:
            JobError: `Validation`, for a moment without a time zone, another count, or an interval without `since`.
        """
        after = _aware("after", after)
        if type(count) is not int or not 1 <= count <= MAX_PREVIEW:  # True is not a count
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
        """Return when a firing was due, in UTC; the server tells only when the next one will be.

        That is the tick before `next_at`. Where this tick is more than some seconds after the firing itself, the second
        in which it fired is returned: the server did not do what the preview says, or it began an interval anew after
        it had been down.

        Args:
            next_at: The server's `Nats-Schedule-Next`.
            seen_at: When the firing was stored.
        """
        next_at, seen_at = next_at.astimezone(UTC), seen_at.astimezone(UTC)
        if self.interval is None:
            due = next(CronSim(self.spec, next_at.astimezone(self._clock), reverse=True)).astimezone(UTC)
        else:
            due = next_at - timedelta(seconds=self.interval)
        # A tick that is only a little later comes from another node's clock.
        return due if due <= seen_at + _SKEW else seen_at.replace(microsecond=0)

    @property
    def _clock(self) -> ZoneInfo | timezone:
        return UTC if self.zone is None else ZoneInfo(self.zone)


def _tidied(text: str) -> str:
    """Return the text with single spaces, if it can be a timetable at all."""
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
        raise JobError.from_validation(f"{zone[:40]!a} is not an IANA time zone that is known here; one is {alike}")
    return None if zone == "UTC" else zone


@cache
def _zones() -> frozenset[str]:
    """Return the names of all zones; files with other names, or outside the database, are never looked for."""
    return frozenset(available_timezones()) - _NO_PLACES


def _aware(what: str, moment: object) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise JobError.from_validation(
            f"`{what}` must be a datetime with a zone: datetime.now(UTC), not datetime.now()"
        )
    return moment.astimezone(UTC)


def _rounded(moment: datetime) -> datetime:
    """Round to the whole second, halves upwards, as the server does."""
    return (moment + _HALF_SECOND).replace(microsecond=0)
