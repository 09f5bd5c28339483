"""What grows is told from what only wavers."""

import random

import pytest

from survival.trend import trend_of

MINUTES = [float(second) for second in range(0, 3600, 15)]


def test_what_wavers_did_not_grow() -> None:
    draw = random.Random(1)
    trend = trend_of("rss", [(at, 60 + draw.uniform(-1, 1)) for at in MINUTES], allowed=0.5)
    assert not trend.grew
    assert abs(trend.per_hour) < 1


def test_what_grows_is_told_with_its_slope() -> None:
    draw = random.Random(1)
    trend = trend_of("rss", [(at, 60 + at / 3600 * 4 + draw.uniform(-1, 1)) for at in MINUTES], allowed=2)
    assert trend.grew
    assert trend.per_hour == pytest.approx(4, abs=0.5)


def test_what_grew_in_the_warm_up_alone_did_not_grow() -> None:
    assert not trend_of("rss", [(at, min(at, 600)) for at in MINUTES], allowed=0).grew


def test_one_more_connection_is_a_leak() -> None:
    assert trend_of("connections", [(at, 5 + (at > 1800)) for at in MINUTES], allowed=0).grew


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend_of("rss", [(at, 1.0) for at in MINUTES[:10]], allowed=0)
