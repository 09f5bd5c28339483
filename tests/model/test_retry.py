import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jsjobs.model.retry import Retry, RetryState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEDS = st.integers(0, 2**32)
FACTORS = st.floats(0, 10, allow_nan=False)
POLICIES = st.builds(
    Retry,
    initial=st.floats(0, 1e9),
    factor=st.floats(1, 10),
    max_delay=st.none() | st.floats(0, 1e9),
    jitter=st.tuples(FACTORS, FACTORS),
    max_retries=st.integers(0, 999),
    max_backoff=st.floats(0, 1e9),
    reset_after=st.floats(0, 1e9),
)


def streak(policy: Retry, seed: int, *, runs_for: float = 0.0, limit: int = 60) -> list[float]:
    """The delays of a job that fails again and again, each attempt `runs_for` seconds after it was due."""
    rng, state, now, due, delays = random.Random(seed), RetryState(), NOW, None, []
    while len(delays) < limit:
        step = policy.after_failure(state, now=now, due=due, rng=rng)
        if step is None:
            return delays
        delay, state = step
        delays.append(delay)
        due = now + timedelta(seconds=delay)
        now = due + timedelta(seconds=runs_for)
    return delays


@given(SEEDS)
def test_the_default_doubles_from_100_ms_with_jitter_and_gives_up_after_five(seed: int) -> None:
    delays = streak(Retry(), seed)
    assert len(delays) == 5
    for number, delay in enumerate(delays):
        assert 0.8 * 0.1 * 2**number <= delay <= 1.2 * 0.1 * 2**number
    assert sum(delays) <= 30


def test_the_jitter_is_spread_over_its_whole_range() -> None:
    first = [streak(Retry(), seed)[0] for seed in range(500)]
    assert 0.08 <= min(first) < 0.082
    assert 0.118 < max(first) <= 0.12


@given(SEEDS, st.floats(0.1, 20))
def test_the_accumulated_backoff_ends_at_30_seconds_to_the_last_bit(seed: int, initial: float) -> None:
    delays = streak(Retry(initial=initial, max_retries=999), seed)
    assert sum(delays) == pytest.approx(30)
    assert all(later > earlier for earlier, later in pairwise(delays[:-1])), "only the last one is cut to fit"


@given(SEEDS)
def test_a_streak_is_forgotten_five_minutes_after_the_failed_attempt_was_due(seed: int) -> None:
    policy, rng = Retry(), random.Random(seed)
    spent = RetryState(failures=5, backoff=3.1)
    just_before, at = NOW + timedelta(seconds=299.999), NOW + timedelta(seconds=300)
    assert policy.after_failure(spent, now=just_before, due=NOW, rng=rng) is None
    delay, state = policy.after_failure(spent, now=at, due=NOW, rng=rng) or (None, None)
    assert delay is not None
    assert 0.08 <= delay <= 0.12
    assert state == RetryState(failures=1, backoff=delay)


def test_a_first_attempt_was_never_due_and_has_no_streak_to_forget() -> None:
    assert Retry().after_failure(RetryState(failures=5), now=NOW, due=None, rng=random.Random(0)) is None


@given(SEEDS)
def test_a_policy_whose_delays_are_longer_than_the_reset_still_grows_and_ends(seed: int) -> None:
    policy = Retry(initial=60, max_retries=20, max_delay=3600, max_backoff=86400, jitter=(1, 1))
    delays = streak(policy, seed, runs_for=10)
    assert delays[:6] == [60, 120, 240, 480, 960, 1920]
    assert delays[6:] == [3600] * 14


@given(SEEDS)
def test_no_delay_is_longer_than_the_longest_one_asked_for(seed: int) -> None:
    delays = streak(Retry(initial=1, max_delay=2, max_retries=50, max_backoff=1000), seed)
    assert len(delays) == 50
    assert max(delays) <= 2


def test_a_slow_growth_goes_on_past_the_64th_failure() -> None:
    policy = Retry(initial=1, factor=1.05, max_retries=999, max_backoff=1e9, jitter=(1, 1))
    at_65, at_300 = (
        policy.after_failure(RetryState(failures=n), now=NOW, due=NOW, rng=random.Random(0)) for n in (65, 300)
    )
    assert at_65 is not None
    assert at_300 is not None
    assert at_300[0] == pytest.approx(at_65[0] * 1.05**235)


@given(POLICIES, st.integers(0, 10**6), st.floats(0, 1e9), st.floats(0, 1e9), SEEDS)
def test_no_policy_overflows_or_gives_a_delay_that_cannot_be(
    policy: Retry, failures: int, backoff: float, late: float, seed: int
) -> None:
    step = policy.after_failure(
        RetryState(failures=failures, backoff=backoff),
        now=NOW + timedelta(seconds=late),
        due=NOW,
        rng=random.Random(seed),
    )
    if step is None:
        return
    delay, state = step
    assert 0 <= delay <= policy.max_backoff
    assert policy.max_delay is None or delay <= policy.max_delay
    assert NOW + timedelta(seconds=delay) >= NOW
    assert int(delay * 1e9) < 2**63, "the server counts nanoseconds in 64 bits"
    assert state.failures in {1, failures + 1}


def test_a_retry_before_its_time_is_one_in_time() -> None:
    state = RetryState(failures=2, backoff=3)
    for policy, failures in ((Retry(reset_after=0), 1), (Retry(reset_after=1), 3)):
        early = policy.after_failure(state, now=NOW - timedelta(hours=1), due=NOW, rng=random.Random(0))
        assert early == policy.after_failure(state, now=NOW, due=NOW, rng=random.Random(0))
        assert early is not None
        assert early[1].failures == failures


@given(POLICIES, SEEDS)
def test_every_streak_keeps_both_bounds(policy: Retry, seed: int) -> None:
    delays = streak(policy, seed, limit=200)
    assert len(delays) <= max(policy.max_retries, 200)
    if policy.reset_after > 0:
        assert sum(delays) <= policy.max_backoff * (1 + 1e-9)


@pytest.mark.parametrize(
    "given_values",
    [
        {"initial": -1},
        {"initial": float("nan")},
        {"initial": float("inf")},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"jitter": (-1, 1)},
        {"jitter": (float("nan"), 1)},
        {"jitter": (1, float("inf"))},
        {"max_retries": -1},
        {"max_retries": 1000},
        {"max_backoff": 1e300},
        {"reset_after": float("inf")},
        {"max_delay": -0.1},
        {"retries": 3},
    ],
)
def test_a_policy_that_cannot_be_is_refused(given_values: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Retry(**given_values)
    assert next(iter(given_values)) in str(caught.value)
