"""The pytest fixtures: `pytest_plugins = ["jsjobs.testing.fixtures"]` in the conftest.py at the root of the tests.

They are plain fixtures, bound to no event loop and no plugin for async tests.
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
    """A nats-server for all tests of this process."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def jsjobs_settings() -> dict[str, Any]:
    """Settings of the harness, for tests that need others: override it."""
    return {}


@pytest.fixture
def jsjobs_harness(jsjobs_server: NatsServer, jsjobs_settings: dict[str, Any]) -> Iterator[Harness]:
    """A harness with a fresh namespace."""
    harness = Harness(**{"nats_url": jsjobs_server.url} | jsjobs_settings)
    _run_apart(harness.open())
    yield harness
    _run_apart(harness.close())


def _run_apart(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in an event loop of its own, whatever loops this thread has."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()
