"""How nats-server 2.15 reads cron (server/cron.go) and searches the next time, written down to compare with."""

from datetime import UTC, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
WEEKDAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
NAMES = ({}, {}, {}, {}, MONTHS, WEEKDAYS)
Field = tuple[frozenset[int], bool]
"""What matches, and the server's star bit."""


def read_cron(spec: str) -> list[Field]:
    """The fields as the server understands them; ValueError or KeyError where it refuses."""
    fields = spec.split()
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields")
    return [read_field(text, *BOUNDS[index], NAMES[index]) for index, text in enumerate(fields)]


def read_field(text: str, low: int, high: int, names: dict[str, int]) -> Field:
    numbers, star = set(), False
    for item in filter(None, text.split(",")):
        span, *steps = item.split("/")
        first, *rest = span.split("-")
        step = int(steps[0]) if steps else 1
        if first in {"*", "?"}:
            start, end = low, high
            star = star or step == 1
        else:
            start = names[first.lower()] if first.lower() in names else int(first)
            last = rest[0] if rest else first
            end = names[last.lower()] if last.lower() in names else int(last)
            end = high if steps and not rest else end
        if len(steps) > 1 or len(rest) > 1 or step < 1 or not low <= start <= end <= high:
            raise ValueError(item)
        numbers.update(range(start, end + 1, step))
    return frozenset(numbers), star


class GoClock:
    """The arithmetic of Go's `time` in one zone, on whole seconds since 1970."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone

    def offset(self, unix: int) -> int:
        offset = (EPOCH + timedelta(seconds=unix)).astimezone(self.zone).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    def wall(self, unix: int) -> datetime:
        return EPOCH.replace(tzinfo=None) + timedelta(seconds=unix + self.offset(unix))

    def unix(self, wall: datetime) -> int:
        """As `time.Date` does it for wall-clock times that do not exist, or exist twice."""
        as_utc = int((wall.replace(tzinfo=UTC) - EPOCH).total_seconds())
        guess = self.offset(as_utc)
        return as_utc - self.offset(as_utc - guess) if guess else as_utc

    def add_date(self, unix: int, *, months: int = 0, days: int = 0) -> int:
        """As `Time.AddDate`: the 31st of a short month is a day of the next."""
        wall = self.wall(unix)
        year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
        first = wall.replace(year=year, month=month + 1, day=1)
        return self.unix(first + timedelta(days=wall.day - 1 + days))


def next_tick(spec: str, zone: tzinfo, after: datetime) -> datetime | None:
    """`parseCron`: the tick after a moment; None if there is none within five years."""
    seconds, minutes, hours, (days, days_star), months, (weekdays, weekdays_star) = read_cron(spec)
    clock = GoClock(zone)
    unix = int((after - EPOCH).total_seconds()) + 1
    last_year = clock.wall(unix).year + 5
    truncated = False

    def day_matches(wall: datetime) -> bool:
        found = (wall.day in days, wall.isoweekday() % 7 in weekdays)
        return all(found) if days_star or weekdays_star else any(found)

    def cut(to: int, **lower: int) -> int:
        nonlocal truncated
        cut_already, truncated = truncated, True
        return to if cut_already else clock.unix(clock.wall(to).replace(**lower))

    while clock.wall(unix).year <= last_year:
        wrapped = False
        while not wrapped and clock.wall(unix).month not in months[0]:
            unix = clock.add_date(cut(unix, day=1, hour=0, minute=0, second=0), months=1)
            wrapped = clock.wall(unix).month == 1
        while not wrapped and not day_matches(clock.wall(unix)):
            unix = clock.add_date(cut(unix, hour=0, minute=0, second=0), days=1)
            wrapped = clock.wall(unix).day == 1
        while not wrapped and clock.wall(unix).hour not in hours[0]:
            unix = cut(unix, minute=0, second=0) + 3600
            wrapped = clock.wall(unix).hour == 0
        while not wrapped and clock.wall(unix).minute not in minutes[0]:
            unix = (unix if truncated else unix - unix % 60) + 60
            truncated = True
            wrapped = clock.wall(unix).minute == 0
        while not wrapped and clock.wall(unix).second not in seconds[0]:
            truncated = True
            unix += 1
            wrapped = clock.wall(unix).second == 0
        if not wrapped:
            return EPOCH + timedelta(seconds=unix)
    return None
