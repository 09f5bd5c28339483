"""Twice: workers and server killed six times, then silence; `just survival-quiet` does it as often as you like."""

from pathlib import Path

import pytest

from survival.quiet import JOBS, run_quiet


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("more", [0, 1])
async def test_all_jobs_end_in_silence(more: int, seed: int, tmp_path: Path) -> None:
    said: list[str] = []
    told = await run_quiet(seed + more, tmp_path, said.append)
    assert told.held, told
    assert told.jobs >= JOBS
