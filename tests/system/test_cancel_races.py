"""Thousands of cancels against starts, ends, retries and redeliveries: one end each, and the answer agrees with it."""

from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from cancel_race import run_race
from jsjobs import JobService

pytestmark = pytest.mark.long

ROUNDS = 4000


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1, scale=4, retry=JobService.Retry(initial=0.002))


async def test_cancel_against_everything_else(
    config: JobService.Config,
    deploy: Callable[..., Awaitable[None]],
    plain: Client,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    await deploy(config)
    _, ends = await run_race(config, plain, monkeypatch, seed=seed, rounds=ROUNDS)
    # The moments were well mixed: each kind of end, and cancels before, within and between attempts.
    assert set(ends) >= {"instant complete -1", "instant cancelled 0", "short cancelled 1", "short complete -1"}, ends
    assert set(ends) >= {"flaky cancelled 1", "flaky complete -1", "dies failed -1", "long cancelled 1"}, ends
