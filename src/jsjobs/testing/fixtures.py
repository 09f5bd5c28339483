"""The pytest fixtures: `pytest_plugins = ["jsjobs.testing.fixtures"]` in the conftest.py at the root of the tests.

They are plain fixtures: they depend on no event loop, and on no plugin for async tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jsjobs.embedded.nats import NatsServer
from jsjobs.testing.harness import Harness


@pytest.fixture(scope="session")
def jsjobs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Start a nats-server that all tests of this process share."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def jsjobs_settings() -> dict[str, Any]:
    """Return the settings of the harness; override this fixture for tests that need others.

        @pytest.fixture
        def jsjobs_settings() -> dict[str, Any]:
            return {"pools": {"normal": 8}, "retry": JobService.Retry(max_retries=1)}

    The keys are those of `JobService.Config`, without `namespace`.
    """
    return {}


@pytest.fixture
def jsjobs_harness(jsjobs_server: NatsServer, jsjobs_settings: dict[str, Any]) -> Iterator[Harness]:
    """Open a harness with a fresh namespace.

        async def test_an_email_is_sent(jsjobs_harness: Harness) -> None:
            async with jsjobs_harness.using(app.jobs) as jobs:
                await jobs.submit("email.send", {"to": "ada@example.org"})
                [sent] = await jsjobs_harness.run_all()

    It is closed, and its streams are deleted, when the test has ended.
    """
    harness = Harness(**{"nats_url": jsjobs_server.url} | jsjobs_settings)
    _run_apart(harness.open())
    yield harness
    _run_apart(harness.close())


def _run_apart(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in an event loop of its own, whatever loops this thread has."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()
