from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cron_texts import cron_texts
from go_cron import next_tick
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.timetable import Timetable

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
CHANGES = [
    datetime(2027, 3, 28, 1, tzinfo=UTC),
    datetime(2027, 10, 31, 1, tzinfo=UTC),
    datetime(2027, 3, 14, 7, tzinfo=UTC),
]
NEAR_CHANGES = st.builds(
    lambda at, by: at + by, st.sampled_from(CHANGES), st.timedeltas(timedelta(days=-2), timedelta(1))
)


@given(cron_texts(), st.sampled_from(ZONES), MOMENTS | NEAR_CHANGES)
def test_the_preview_is_what_the_server_computes(text: str, zone: str, after: datetime) -> None:
    timetable = Timetable.cron(text, zone=zone)
    for tick in timetable.next(after, 3):
        assert tick == next_tick(timetable.spec, ZoneInfo(zone), after)
        after = tick


@given(cron_texts(), st.sampled_from(ZONES), MOMENTS | NEAR_CHANGES, st.floats(0, 3))
def test_a_firing_was_due_at_the_tick_before_the_next(text: str, zone: str, after: datetime, late: float) -> None:
    timetable = Timetable.cron(text, zone=zone)
    due, following = timetable.next(after, 2)
    assert timetable.due_before(following, due + timedelta(seconds=late)) == due


def local(zone: str, *texts: str) -> list[datetime]:
    """Wall-clock times with the offset that they have there, checked to be real ones."""
    moments = [datetime.fromisoformat(text) for text in texts]
    assert [moment.astimezone(ZoneInfo(zone)).isoformat(" ", "minutes") for moment in moments] == list(texts)
    return moments


@pytest.mark.parametrize(
    ("text", "zone", "after", "ticks"),
    [
        ("30 2 * * *", "Europe/Berlin", "2027-03-27 02:30+01:00", ["2027-03-29 02:30+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-30 02:30+02:00", ["2027-10-31 02:30+02:00", "2027-10-31 02:30+01:00"]),
        ("30 2 * * *", "America/New_York", "2027-03-13 02:30-05:00", ["2027-03-15 02:30-04:00"]),
        (
            "0 1 * * *",
            "America/New_York",
            "2027-11-06 01:00-04:00",
            ["2027-11-07 01:00-04:00", "2027-11-07 01:00-05:00"],
        ),
        ("0 * * * *", "Europe/Berlin", "2027-03-28 01:00+01:00", ["2027-03-28 03:00+02:00", "2027-03-28 04:00+02:00"]),
    ],
)
def test_a_time_that_clocks_leave_out_is_no_firing_and_one_that_comes_twice_fires_twice(
    text: str, zone: str, after: str, ticks: list[str]
) -> None:
    timetable = Timetable.cron(text, zone=zone)
    before, *expected = local(zone, after, *ticks)
    assert timetable.next(before, len(expected)) == expected
    for earlier, later in pairwise([before, *expected]):
        assert next_tick(timetable.spec, ZoneInfo(zone), earlier) == later
        assert timetable.due_before(later, earlier) == earlier


@pytest.mark.parametrize(
    ("text", "zone", "after", "missed", "later"),
    [
        ("40 15 15,20 9 *", "America/Santiago", "2027-09-01 00:00-04:00", "2027-09-15 15:40-03:00", "2027-09-20 15:40-03:00"),
        ("40 13 26 3,11 *", "America/Havana", "2026-11-26 13:40-05:00", "2027-03-26 13:40-04:00", "2027-11-26 13:40-05:00"),
        ("51 * * * 6", "Africa/Cairo", "2027-04-29 11:58+02:00", "2027-05-01 00:51+03:00", "2027-05-01 01:51+03:00"),
    ],
)  # fmt: skip
def test_a_server_that_looks_across_a_midnight_that_clocks_skip_misses_firings_which_the_preview_has(
    text: str, zone: str, after: str, missed: str, later: str
) -> None:
    timetable = Timetable.cron(text, zone=zone)
    fired, previewed, following = local(zone, after, missed, later)
    assert timetable.next(fired, 1) == [previewed]
    assert next_tick(timetable.spec, ZoneInfo(zone), fired) == following
    assert timetable.due_before(following, fired + timedelta(milliseconds=300)) == fired, "never later than it fired"


@given(cron_texts(), st.integers(0, 365 * 24), st.sampled_from(["Australia/Lord_Howe"]))
def test_where_clocks_change_by_half_an_hour_they_agree_away_from_it(text: str, hours: int, zone: str) -> None:
    clock, timetable = ZoneInfo(zone), Timetable.cron(text, zone=zone)
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    (tick,) = timetable.next(after, 1)
    days = range((tick - after).days + 3)
    assume(len({(after + timedelta(days=day - 1)).astimezone(clock).utcoffset() for day in days}) == 1)
    assert tick == next_tick(timetable.spec, clock, after)


def test_where_clocks_change_by_half_an_hour_both_miss_a_firing_that_looking_back_finds() -> None:
    zone = "Australia/Lord_Howe"
    sundays = Timetable.cron("1 12 * * 0", zone=zone)
    before, missed, later = local(zone, "2027-10-02 12:01+10:30", "2027-10-03 12:01+11:00", "2027-10-10 12:01+11:00")
    assert sundays.next(before, 1) == [later]
    assert next_tick(sundays.spec, ZoneInfo(zone), before) == later
    assert sundays.due_before(later, later) == missed
    assert sundays.due_before(later, before + timedelta(milliseconds=300)) == before, "never later than it fired"


def test_an_interval_counts_from_when_it_was_stored_rounded_to_the_second() -> None:
    timetable, step = Timetable.every(30), timedelta(seconds=30)
    for stored, start in (
        (NOW + timedelta(seconds=0.4), NOW),
        (NOW + timedelta(seconds=0.5), NOW + timedelta(seconds=1)),
    ):
        first = [start + step, start + 2 * step]
        assert timetable.next(stored, 2, since=stored) == first
        assert timetable.next(stored - timedelta(days=1), 2, since=stored) == first, "none before the first"
        assert timetable.next(first[0], 1, since=stored) == first[1:]
        assert timetable.next(first[0] - timedelta(microseconds=1), 1, since=stored) == first[:1]


def test_an_intervals_firing_was_due_an_interval_before_the_next_but_not_much_later_than_it_was_stored() -> None:
    timetable, step = Timetable.every(30), timedelta(seconds=30)
    assert timetable.due_before(NOW + step, NOW + timedelta(seconds=0.3)) == NOW
    another_nodes_clock, after_an_outage = NOW - timedelta(seconds=0.4), NOW - timedelta(seconds=20.4)
    assert timetable.due_before(NOW + step, another_nodes_clock) == NOW
    assert timetable.due_before(NOW + step, after_an_outage) == NOW - timedelta(seconds=21)


@given(cron_texts(), st.none() | st.sampled_from(ZONES), MOMENTS, MOMENTS)
def test_a_due_time_is_never_much_later_than_the_firing_whatever_the_server_says(
    text: str, zone: str | None, next_at: datetime, seen_at: datetime
) -> None:
    due = Timetable.cron(text, zone=zone).due_before(next_at, seen_at)
    assert due <= seen_at + timedelta(seconds=5)
    assert due.microsecond == 0
    assert due.tzinfo is UTC


def test_the_preview_is_in_utc_five_long_and_later_than_the_moment() -> None:
    berlin = datetime(2026, 11, 26, 9, tzinfo=ZoneInfo("Europe/Berlin"))
    ticks = Timetable.cron("0 9 * * *", zone="Europe/Berlin").next(berlin)
    assert ticks == [datetime(2026, 11, day, 8, tzinfo=UTC) for day in (27, 28, 29, 30)] + [
        datetime(2026, 12, 1, 8, tzinfo=UTC)
    ]
    assert all(tick.tzinfo is UTC for tick in ticks)


def test_a_preview_needs_moments_with_a_zone_a_sane_count_and_an_intervals_start() -> None:
    naive = datetime(2026, 11, 26)  # noqa: DTZ001
    daily, half_minutes = Timetable.cron("@daily"), Timetable.every(30)
    for call in (
        lambda: daily.next(naive),
        lambda: daily.next("now"),  # type: ignore[arg-type]
        lambda: half_minutes.next(NOW, since=naive),
        lambda: half_minutes.next(NOW),
        *(lambda count=count: daily.next(NOW, count) for count in (0, -1, 101, True, 2.0, "5")),
    ):
        with pytest.raises(JobError) as caught:
            call()
        assert caught.value.reason is Reason.VALIDATION
