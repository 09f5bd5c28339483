"""A pool of processes."""

from collections.abc import AsyncIterator

import pytest

from process_runs import Runs


@pytest.fixture
async def run() -> AsyncIterator[Runs]:
    runs = Runs(2)
    yield runs
    await runs.processes.close()
