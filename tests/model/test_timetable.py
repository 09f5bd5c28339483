import os
import subprocess
import sys
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cron_texts import cron_texts
from damaged import damaged
from go_cron import read_cron
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.timetable import Timetable

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]


def refusal(text: str, zone: str | None = None) -> str:
    with pytest.raises(JobError) as caught:
        Timetable.cron(text, zone=zone)
    assert caught.value.reason is Reason.VALIDATION
    assert len(caught.value.message) < 500
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("0 9 * * 1-5", "0 0 9 * * 1-5"),
        ("*/15 * * * *", "0 0,15,30,45 * * * *"),
        (
            "*/2 * * * * *",
            "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38,40,42,44,46,48,50,52,54,56,58 * * * * *",
        ),
        ("5/20 * ? * ?", "0 5,25,45 * * * *"),
        ("0 0 1,15 * *", "0 0 0 1,15 * *"),
        ("0 0 1 jan,JUL,December *", "0 0 0 1 1,7,12 *"),
        ("0 0 1 FEB-april *", "0 0 0 1 2-4 *"),
        ("0 0 * * 7", "0 0 0 * * 0"),
        ("0 0 * * 0-7", "0 0 0 * * 0-6"),
        ("0 0 * * 1-7", "0 0 0 * * 0-6"),
        ("0 0 * * 5-7", "0 0 0 * * 0,5,6"),
        ("0 0 * * 7-2", "0 0 0 * * 0-2"),
        ("0 0 * * 1-7/2", "0 0 0 * * 0,1,3,5"),
        ("0 0 * * */2", "0 0 0 * * 0,2,4,6"),
        ("0 0 * * sun-sat", "0 0 0 * * 0-6"),
        ("0 0 * * FRI-MON", "0 0 0 * * 0,1,5,6"),
        ("0 0 * * Saturday,sun", "0 0 0 * * 0,6"),
        ("0 0 13 * fri", "0 0 0 13 * 5"),
        ("0 0 */2 * *", "0 0 0 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * *"),
        ("0 0 29 2 *", "0 0 0 29 2 *"),
        ("0 0 30 2 1", "0 0 0 30 2 1"),
        ("00 09 */1 * *", "0 0 9 * * *"),
        ("@Daily", "0 0 0 * * *"),
        ("@midnight", "0 0 0 * * *"),
        ("@HOURLY", "0 0 * * * *"),
        ("@weekly", "0 0 0 * * 0"),
        ("@monthly", "0 0 0 1 * *"),
        ("@yearly", "0 0 0 1 1 *"),
        ("@annually", "0 0 0 1 1 *"),
    ],
)
def test_what_people_write_becomes_the_servers_six_numeric_fields(text: str, spec: str) -> None:
    assert Timetable.cron(text).spec == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "five fields"),
        ("* * * *", "not 4"),
        ("0 0 0 1 1 * 2027", "not 7"),
        ("60 * * * *", "minute: 60 is out of range; write 0 to 59"),
        ("* 24 * * *", "hour: 24 is out of range"),
        ("60 * * * * *", "second: 60"),
        ("0 0 0 * *", "day-of-month: 0 is out of range; write 1 to 31"),
        ("0 0 * 13 *", "month: 13"),
        ("0 0 * * 8", "day-of-week: 8 is out of range; write 0 to 7"),
        (f"{'9' * 300} * * * *", "out of range"),
        ("-5 * * * *", "cannot be read"),
        ("+5 * * * *", "cannot be read"),
        ("1-2-3 * * * *", "cannot be read"),
        ("*-5 * * * *", "cannot be read"),
        ("*/2/3 * * * *", "cannot be read"),
        ("1.5 * * * *", "cannot be read"),
        ("mon * * * *", "minute: 'mon' is not known; it takes numbers only"),
        ("0 0 * sept *", "month: 'sept' is not known; it takes names such as january, jan"),
        ("0 0 L * *", "day-of-month: the server does not support L, W or #: 'L'; write all days"),
        ("0 0 L-3 * *", "does not support L"),
        ("0 0 15W * *", "does not support L"),
        ("0 0 lw * *", "does not support L"),
        ("0 0 * * 5L", "day-of-week: the server does not support L"),
        ("0 0 * * friL", "does not support L"),
        ("0 0 * * 1#2", "does not support L"),
        ("0 0 * * mon#1", "does not support L"),
        ("@reboot", "no machine"),
        ("@every 5m", "such as `every 300s`"),
        ("@at 2027-01-01T00:00:00Z", "submit a delayed job"),
        ("@fortnightly", "write one of @yearly"),
        ("@daily 5", "write one of @yearly"),
        ("every 30s", "give it as every, such as 30s"),
        ("*/0 * * * *", "a step is 1 to 60, not 0"),
        ("*/90 * * * *", "a step is 1 to 60, not 90"),
        ("5-1 * * * *", "minute: '5-1' goes backwards; write it as two ranges, 5-59,0-1"),
        ("0 0 * nov-feb *", "month: 'nov-feb' goes backwards; write it as two ranges, 11-12,1-2"),
        ("0 0 * * fri-mon/2", "write the days out"),
        ("0 0 * * 1/2", "write the days out"),
        ("1,,2 * * * *", "minute: there is an empty item"),
        (", * * * *", "empty item"),
        ("5,* * * * *", "write only *, or only the rest"),
        ("0 0 */10 * 1", "day-of-month: */n together with the other day field"),
        ("0 0 */10 * 1", "write the days out: 1,11,21,31"),
        ("0 0 5,*/10 * 1", "day-of-month: */n"),
        ("0 0 13 * */2", "day-of-week: */n"),
        ("0 0 */2 * */2", "day-of-month: */n"),
        ("0 0 30 2 *", "day 30 never comes in month 2"),
        ("0 0 31 4,6,sep,nov *", "day 31 never comes in month 4,6,9,11"),
        ("٣ * * * *", "plain ASCII"),
        ("½ * * * *", "plain ASCII"),
        ("0 9 * * 1\n5", "plain ASCII in one line"),
        ("0 9 * * 1\r\nNats-TTL: 1s", "plain ASCII in one line"),
        ("0 9\x00 * * *", "plain ASCII"),
        ("0 9 * * 1\x1f", "plain ASCII"),
        (f"{'0,' * 300}0 * * * *", "512 characters at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_faithfully_is_refused_with_what_to_write(text: str, words: str) -> None:
    assert words in refusal(text)


def test_every_takes_whole_seconds_up_to_ten_years() -> None:
    half_a_minute = Timetable.every(30.0)
    assert (half_a_minute.text, half_a_minute.spec, half_a_minute.zone) == ("every 30s", "@every 30s", None)
    assert Timetable.every(timedelta(minutes=5)) == Timetable.every(300) == Timetable.parse("every  300s")
    assert Timetable.every(3650 * 86_400).spec == "@every 315360000s"


@pytest.mark.parametrize(
    "seconds", [0, -1, 0.5, 1.5, True, float("nan"), float("inf"), 3650 * 86_400 + 1, 10**400, "30", None]
)
def test_another_interval_is_refused(seconds: object) -> None:
    with pytest.raises(JobError, match="Validation: an interval must be"):
        Timetable.every(seconds)  # type: ignore[arg-type]


def test_a_zone_is_one_that_the_database_names() -> None:
    assert Timetable.cron("0 9 * * *", zone="Europe/Berlin").zone == "Europe/Berlin"
    assert Timetable.cron("0 9 * * *", zone="America/Argentina/Buenos_Aires").zone is not None
    assert Timetable.cron("0 9 * * *", zone="UTC") == Timetable.cron("0 9 * * *")
    assert "one is Europe/Berlin" in refusal("0 9 * * *", "europe/berlin")


@pytest.mark.parametrize(
    "zone",
    ["", " ", "Local", "localtime", "Factory", "../x", "../../etc/localtime", "/usr/share/zoneinfo/UTC", "Europe", "Europe/",
     "right/Europe/Berlin", "posix/Europe/Berlin", "CEST", "+02:00", "Europe/Berlin\n", "Europe/Bérlin", "x" * 10_000, "a\0b"],
)  # fmt: skip
def test_any_other_zone_is_refused(zone: str) -> None:
    assert "not an IANA time zone that is known here" in refusal("0 9 * * *", zone)


def test_zones_are_known_where_the_system_has_no_files_of_them() -> None:
    script = """
from datetime import UTC, datetime
from jsjobs.model.timetable import Timetable
print(Timetable.cron("@daily", zone="Europe/Berlin").next(datetime(2027, 7, 1, tzinfo=UTC), 1)[0])
"""
    environment = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "2027-07-01 22:00:00+00:00\n", done.stderr


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(JobError, match="a timetable must be a string, not int"):
        Timetable.cron(5)  # type: ignore[arg-type]
    with pytest.raises(JobError, match="a time zone must be a string, not ZoneInfo"):
        Timetable.cron("@daily", zone=ZoneInfo("UTC"))  # type: ignore[arg-type]


def test_the_text_is_kept_as_written_without_needless_spaces() -> None:
    assert Timetable.cron("  0   9 * *\tMON-Fri ").text == "0 9 * * MON-Fri"


@given(cron_texts(), st.none() | st.sampled_from(ZONES))
def test_every_cron_is_read_back_from_its_text(text: str, zone: str | None) -> None:
    timetable = Timetable.cron(text, zone=zone)
    assert Timetable.parse(timetable.text, timetable.zone) == timetable


@given(st.integers(1, 3650 * 86_400))
def test_every_interval_is_read_back_from_its_text(seconds: int) -> None:
    timetable = Timetable.every(seconds)
    assert Timetable.parse(timetable.text, timetable.zone) == timetable


TIMETABLES = cron_texts() | st.integers(1, 10**6).map(lambda seconds: f"every {seconds}s") | st.just("@daily")
BITS = st.text(max_size=2) | st.text("0123456789*/,-?#LW@ \tmonfriseveryd", max_size=2)


def test_hostile_text_is_refused_or_read_as_something_harmless() -> None:
    read: list[bool] = []

    @given(damaged(TIMETABLES, BITS), st.none() | damaged(st.sampled_from(ZONES), st.text(max_size=2)))
    @example("every 0s", None)
    @example("every 30s\n", None)
    @example("every 030s", None)
    @example("every 999999999s", None)
    @example("every ٣s", None)
    @example("every 30s", "UTC")
    @example("EVERY 30s", None)
    @example("0 9 * * *", "Europe/Berlin\r\nNats-Rollup: all")
    def look(text: str, zone: str | None) -> None:
        read.append(False)
        try:
            timetable = Timetable.parse(text, zone)
        except JobError as error:
            assert error.reason is Reason.VALIDATION  # noqa: PT017 - either is right
            return
        read[-1] = True
        assert timetable == Timetable.parse(timetable.text, timetable.zone)
        assert (timetable.text + timetable.spec).isascii()
        assert (timetable.text + timetable.spec).isprintable()

    look()
    assert sum(read) > len(read) / 4


@given(cron_texts())
def test_the_translation_means_what_the_server_reads_in_the_words_it_knows(text: str) -> None:
    original = text if len(text.split()) == 6 else f"0 {text}"
    try:
        meant = read_cron(original)
    except (ValueError, KeyError):
        assume(False)
    assert read_cron(Timetable.cron(text).spec) == meant
