import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsjobs.cli.durations import format_age, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("4s", 4), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1.5s", 1.5), (" 1m0s ", 60)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "0s", "-4s", "4 s", "1s1m", "1h1h", "1e3s", "٣s", "4s\n4s", "NaNs", "1" * 40 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"invalid duration .*: (it has no unit, write 5s|write a number above zero and its unit)"
    ):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**12))
def test_what_is_written_is_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def test_an_age_is_its_largest_unit() -> None:
    assert [format_age(seconds) for seconds in (0, 0.5, 59.9, 3599, 7200, 200_000)] == [
        "0s",
        "0s",
        "59s",
        "59m",
        "2h",
        "2d",
    ]
