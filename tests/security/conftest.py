from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from secured import apply, config_of, secured, server_config

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from secured_database import secured_database

__all__ = ["secured_database"]


@pytest.fixture
def secured_server(tmp_path: Path) -> Iterator[NatsServer]:
    with secured(tmp_path / "nats", server_config()) as server:
        yield server


@pytest.fixture
async def as_user(secured_server: NatsServer, database_url: str) -> AsyncIterator[Callable[..., JobService.Config]]:
    """Settings of each user; the operator has applied the streams."""

    def make(user: str, **given: object) -> JobService.Config:
        return config_of(secured_server.url, user, **{"database_url": database_url, **given})

    await apply(make("operator"))
    return make
