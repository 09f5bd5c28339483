"""A pool of processes, and services of one namespace."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from jsjobs import JobService
from process_runs import Runs


@pytest.fixture
async def run() -> AsyncIterator[Runs]:
    runs = Runs(2)
    yield runs
    await runs.processes.close()


@pytest.fixture
async def service(settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]) -> Callable:
    """Makes connected services of this test's namespace."""
    await deploy(settings_of())

    @asynccontextmanager
    async def make(**given: object) -> AsyncIterator[JobService]:
        async with JobService(settings_of(**given)) as made:
            yield made

    return make
