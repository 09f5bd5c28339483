"""Moments and spans of time, and when a job expires."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged import damaged
from jsjobs.model.due import expires_at
from jsjobs.model.errors import JobError
from jsjobs.model.retry import LONGEST, Snooze
from jsjobs.model.times import parse_rfc3339, rfc3339

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_that_was_written_is_read_again(moment: datetime) -> None:
    assert parse_rfc3339(rfc3339(moment)) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T12:00:00Z",
        "2026-11-22t12:00:00z",
        "2026-11-22T12:00:00+00:00",
        "2026-11-22T13:30:00+01:30",
        "2026-11-22T07:00:00.000000000-05:00",
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str) -> None:
    assert parse_rfc3339(text) == NOON
    assert parse_rfc3339(text).tzinfo is UTC


ZONES = st.sampled_from(["Z", "z", "+00:00", "+01:30", "-23:59"])
WRITTEN = st.builds(lambda moment, zone: f"{moment.isoformat()}{zone}", st.datetimes(), ZONES)


def test_any_text_is_a_moment_or_a_value_error() -> None:
    read: list[bool] = []

    @given(damaged(WRITTEN, st.text(max_size=2) | st.text("0123456789-:.TtZz+", max_size=2)))
    def look(text: str) -> None:
        read.append(False)
        try:
            moment = parse_rfc3339(text)
        except ValueError as error:
            assert "must be an RFC 3339 time" in str(error)  # noqa: PT017 - either is right
            return
        read[-1] = True
        assert moment.tzinfo is UTC
        assert parse_rfc3339(rfc3339(moment)) == moment

    look()
    assert sum(read) > len(read) / 4


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "1795318823", "2026-11-22", "2026-W47-7T12:00:00Z", "20261122T120000Z", "2026-11-22 12:00:00Z"),
        *("2026-11-22T12:00Z", "2026-11-22T12:00:00", "2026-11-22T12:00:60Z", "2026-13-01T00:00:00Z"),
        *("2026-11-22T12:00:00.Z", "2026-11-22T12:00:00,5Z", "٢٠٢٦-11-22T12:00:00Z", " 2026-11-22T12:00:00Z"),
        *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-22T12:00:00+24:00"),
    ],
)
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="must be an RFC 3339 time"):
        parse_rfc3339(text)


def test_seconds_to_an_expiry_count_from_when_the_job_is_due() -> None:
    assert expires_at(30, NOON) == NOON + timedelta(seconds=30)
    later = datetime(2026, 11, 22, 14, tzinfo=timezone(timedelta(hours=1)))
    assert expires_at(later, NOON) == later


@pytest.mark.parametrize("moment", [NOON, NOON - timedelta(days=1)])
def test_what_expires_before_it_is_due_is_refused(moment: datetime) -> None:
    with pytest.raises(JobError, match="before it is due at 2026-11-22T12:00:00Z") as caught:
        expires_at(moment, NOON)
    assert caught.value.reason == "Validation"


def test_what_expires_after_all_time_is_refused() -> None:
    with pytest.raises(JobError, match="after the year 9999"):
        expires_at(1e9, datetime(9999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("given", "seconds"), [(1, 1.0), (0.5, 0.5), (LONGEST, float(LONGEST)), (timedelta(minutes=2), 120.0)]
)
def test_a_snooze_is_seconds(given: float | timedelta, seconds: float) -> None:
    assert Snooze(given).seconds == seconds
    assert not isinstance(Snooze(given), JobError)


def test_a_snooze_says_how_long() -> None:
    assert str(Snooze(90)) == "come back in 90 s"


@pytest.mark.parametrize(
    "given",
    [0, -1, True, "5", None, float("nan"), float("inf"), LONGEST + 1, 10**400, timedelta(0), timedelta(days=-1), NOON],
)
def test_a_snooze_of_anything_else_is_refused(given: object) -> None:
    with pytest.raises(JobError, match="a snooze must be") as caught:
        Snooze(given)  # type: ignore[arg-type]
    assert caught.value.reason == "Validation"
