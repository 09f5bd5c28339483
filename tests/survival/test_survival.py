"""Some hundred jobs while workers, routers, publishers, servers and the network are hurt; `just survival` goes on for longer."""

from pathlib import Path

import pytest

from survival.checker import check
from survival.history import read_history
from survival.run import Settings, run

pytestmark = pytest.mark.long


@pytest.mark.timeout(180)
async def test_jobs_survive(tmp_path: Path, seed: int) -> None:
    settings = Settings(seed=seed, seconds=13, jobs=400, faults=12, ack_wait=2)
    told: list[str] = []
    outcome = await run(settings, tmp_path, told.append)
    history = read_history(tmp_path)
    assert {rule: found for rule, found in check(history).items() if found} == {}
    assert sum(outcome.faults.values()) == settings.faults
    assert len(outcome.faults) > settings.faults / 2
    assert outcome.accepted >= settings.jobs
    assert len({receipt.job for receipt in history.receipts}) >= settings.jobs - len(history.asked)
    assert {version.status for versions in history.versions.values() for version in versions[-1:]} >= {
        "complete",
        "failed",
    }
