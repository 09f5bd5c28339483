from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from rpc_client import Asking

from jsjobs import JobService
from jsjobs.rpc import Rpc


@pytest.fixture
def ask(plain: Client, namespace: str) -> Asking:
    return Asking(plain, namespace)


@pytest.fixture
async def rpc(jobs: JobService) -> AsyncIterator[Rpc]:
    """The micro service of `jobs`, in this process."""
    async with Rpc(jobs) as served:
        yield served
