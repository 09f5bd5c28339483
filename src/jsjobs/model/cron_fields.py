"""Translate cron as people write it into nats-server's six numeric fields; what would change its meaning is refused.

The server's own parser knows fewer words than most (docs/server-quirks.md#crons-have-fewer-words-than-elsewhere). So
every field becomes a list of plain numbers, or `*`, which all parsers read alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jsjobs.model.errors import JobError

_SHOWN = 40
"""The most characters of the given text that an error repeats."""


def _names(first: int, words: str) -> dict[str, int]:
    """Return the numbers, keyed by full names and by their first three letters."""
    numbered = list(enumerate(words.split(), first))
    return {name: number for number, word in numbered for name in (word, word[:3])}


_MONTHS = _names(1, "january february march april may june july august september october november december")
_WEEKDAYS = _names(0, "sunday monday tuesday wednesday thursday friday saturday")


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]

    def refusal(self, why: str) -> JobError:
        return JobError.from_validation(f"cron, {self.name}: {why}")


_DAY = _Field("day-of-month", 1, 31, {})
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day-of-week", 0, 6, _WEEKDAYS)
_FIELDS = (_Field("second", 0, 59, {}), _Field("minute", 0, 59, {}), _Field("hour", 0, 23, {}), _DAY, _MONTH, _WEEKDAY)
_SUNDAY = 7
"""The other number for Sunday, which puts it at the end of the week."""

_MACROS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_NOT_CRON = {
    "@reboot": "a schedule has no machine whose start it could wait for; write when to run",
    "@every": "that is an interval, not cron: write it as every, with seconds, such as `every 300s`",
    "@at": "that is one moment, not cron: submit a delayed job instead",
}

_ITEM = re.compile(r"(?:[*?]|([0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?)(?:/([0-9]+))?", re.IGNORECASE | re.ASCII)
_QUARTZ = re.compile(r"[0-9]*[LW]|LW|L-[0-9]+|(?:sun|mon|tue|wed|thu|fri|sat)L|[0-9a-z]+#[0-9]+", re.IGNORECASE)
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class _Values:
    """The numbers a field matches.

    Whether they were written as `*` matters only for the day fields: see `_refuse_ambiguous_days`.
    """

    numbers: frozenset[int]
    star: bool = False
    stepped_star: bool = False
    """Whether the field holds a `*/n` with n above 1."""

    def __str__(self) -> str:
        """Return the field as both parsers read it: `*`, or numbers, with runs of three or more as ranges."""
        if self.star:
            return "*"
        runs: list[list[int]] = []
        for number in sorted(self.numbers):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)  # noqa: PLR2004


def six_fields(text: str) -> str:
    """Return the server's six fields, second first, numbers only.

    Args:
        text: Five fields (minute first), six (second first) or a macro such as `@daily`, separated by single spaces.

    Raises:
        JobError: `Validation`, naming the field, what is wrong with it and what to write instead.
    """
    if text.startswith("@"):
        return _macro(text)
    parts = text.split(" ") if text else []
    if len(parts) not in {5, 6}:
        raise JobError.from_validation(
            f"cron takes five fields (minute, hour, day-of-month, month, day-of-week), or six with the second in"
            f" front, not {len(parts)}: {text[:_SHOWN]!r}"
        )
    if len(parts) == 5:  # noqa: PLR2004 - the five that everybody writes
        parts.insert(0, "0")
    fields = [_values(field, part) for field, part in zip(_FIELDS, parts, strict=True)]
    _refuse_ambiguous_days(days=fields[3], weekdays=fields[5])
    _refuse_dates_that_never_come(days=fields[3], months=fields[4], weekdays=fields[5])
    return " ".join(map(str, fields))


def _macro(text: str) -> str:
    word = text.split(" ", maxsplit=1)[0].lower()
    if word in _NOT_CRON:
        raise JobError.from_validation(f"cron, {word}: {_NOT_CRON[word]}")
    if text.lower() not in _MACROS:
        raise JobError.from_validation(f"cron: {text[:_SHOWN]!r} is not known; write one of {', '.join(_MACROS)}")
    return _MACROS[word]


def _values(field: _Field, text: str) -> _Values:
    items = text.split(",")
    if "" in items:
        raise field.refusal(f"there is an empty item in {text[:_SHOWN]!r}; remove the extra comma")
    values = [_item(field, item) for item in items]
    if len(values) > 1 and any(value.star for value in values):
        raise field.refusal(
            f"{text[:_SHOWN]!r} lists more than *, which matches everything; write only *, or only the rest"
        )
    return _Values(
        numbers=frozenset().union(*(value.numbers for value in values)),
        star=values[0].star,
        stepped_star=any(value.stepped_star for value in values),
    )


def _item(field: _Field, item: str) -> _Values:
    """Parse one item of a list: `*`, a number or name, or a range of them, each with or without a step."""
    match = _ITEM.fullmatch(item)
    if match is None or _QUARTZ.fullmatch(item):
        raise field.refusal(_unreadable(item))
    first, last, step_text = match.groups()
    step = 1 if step_text is None else _step(field, step_text)
    if first is None:
        everything = frozenset(range(field.low, field.high + 1, step))
        return _Values(everything, star=step == 1, stepped_star=step > 1)
    low = _number(field, first)
    if last is not None:
        return _Values(_range(field, item, low, _number(field, last), step))
    if step_text is None:
        return _Values(frozenset({low % _SUNDAY if field is _WEEKDAY else low}))
    if field is _WEEKDAY:
        raise field.refusal(f"{item!r} ends on Saturday in some crons and on Sunday in others; write the days out")
    return _Values(frozenset(range(low, field.high + 1, step)))


def _range(field: _Field, item: str, low: int, high: int, step: int) -> frozenset[int]:
    if field is not _WEEKDAY:
        if low > high:
            raise field.refusal(
                f"{item!r} goes backwards; write it as two ranges, {low}-{field.high},{field.low}-{high}"
            )
        return frozenset(range(low, high + 1, step))
    if low > high:  # over the end of the week
        if step > 1:
            raise field.refusal(f"{item!r} crosses the end of the week in steps; write the days out, such as fri,sun")
        high += _SUNDAY
    return frozenset(day % _SUNDAY for day in range(low, high + 1, step))


def _number(field: _Field, text: str) -> int:
    named = field.names.get(text.lower())
    if named is not None:
        return named
    if not text.isdigit():
        known = f"names such as {', '.join(list(field.names)[:4])}" if field.names else "numbers only"
        raise field.refusal(f"{text[:_SHOWN]!r} is not known; it takes {known}")
    number, high = int(text), _SUNDAY if field is _WEEKDAY else field.high
    if not field.low <= number <= high:
        raise field.refusal(f"{text[:_SHOWN]} is out of range; write {field.low} to {high}")
    return number


def _step(field: _Field, text: str) -> int:
    count = field.high - field.low + 1
    step = int(text)
    if not 1 <= step <= count:
        raise field.refusal(
            f"a step is 1 to {count}, not {text[:_SHOWN]}; a step does not carry over into the next field: for a"
            f" longer interval use every"
        )
    return step


def _unreadable(item: str) -> str:
    if _QUARTZ.fullmatch(item):
        return (
            f"the server does not support L, W or #: {item[:_SHOWN]!r}; write all days that it can be, such as 28-31,"
            f" and let the handler see which one it is"
        )
    return f"{item[:_SHOWN]!r} cannot be read; write numbers, ranges such as 1-5, steps such as */15, lists with commas"


def _refuse_ambiguous_days(*, days: _Values, weekdays: _Values) -> None:
    """Refuse `*/n` in one day field beside a restriction in the other: crons differ in what that means.

    Where both day fields are restricted, it is enough that either matches. The server and its kin take `*/n` for a
    restriction. Vixie cron, which looks for a leading `*`, does not: there both fields must match.
    """
    for field, values, other in ((_DAY, days, weekdays), (_WEEKDAY, weekdays, days)):
        if values.stepped_star and not other.star:
            raise field.refusal(
                "*/n together with the other day field means either of them in some crons and both in others; write"
                f" the days out: {_Values(values.numbers)}"
            )


def _refuse_dates_that_never_come(*, days: _Values, months: _Values, weekdays: _Values) -> None:
    if weekdays.star and min(days.numbers) > max(_LONGEST_MONTHS[month - 1] for month in months.numbers):
        raise _DAY.refusal(f"day {days} never comes in month {months}; write a day that the month has")
