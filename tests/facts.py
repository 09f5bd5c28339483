"""Facts of jobs, and waiting for them."""

import asyncio
import inspect
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

from jsjobs import JobService

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


async def is_processing(service: JobService, job_id: str) -> bool:
    return (await service.status(job_id)).status == "processing"


def is_ok(url: str) -> bool:
    """Whether something answers there, and well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:  # nothing listens yet, or it says that it is unavailable
        return False
