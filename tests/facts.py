"""Facts of jobs, and waiting for them."""

import asyncio
import inspect
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names

T = TypeVar("T")


@overload
async def eventually(look: Callable[[], Awaitable[T]], *, within: float = ...) -> T: ...
@overload
async def eventually(look: Callable[[], T], *, within: float = ...) -> T: ...
async def eventually(look: Callable[[], Awaitable[T] | T], *, within: float = 20.0) -> T:
    """What `look`, a plain or an async function, gives, once it gives something true without raising."""
    deadline = time.monotonic() + within
    while True:
        try:
            found = look()
            if inspect.isawaitable(found):
                found = await found
        except Exception:
            if time.monotonic() > deadline:
                raise
        else:
            if found:
                return found
            assert time.monotonic() < deadline, f"still not true after {within} s"
        await asyncio.sleep(0.01)


def state_of(service: JobService) -> StateStore:
    """The entries of its jobs."""
    return StateStore(service.connection, Names(service.config.namespace))


def subscriptions(connection: Connection) -> int:
    """How many subscriptions it has, with that of its own inbox."""
    return connection.subscription_count


async def broken(connection: Connection) -> None:
    """Wait until its break is known here: it may stand again a tenth of a second later."""
    async with asyncio.timeout(20):
        while connection.is_up:  # noqa: ASYNC110 - a look each turn of the loop misses nothing
            await asyncio.sleep(0)


async def is_processing(service: JobService, job_id: str) -> bool:
    return (await service.status(job_id)).status == "processing"


def is_ok(url: str) -> bool:
    """Whether something answers there, and well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:  # nothing listens yet, or it says that it is unavailable
        return False
