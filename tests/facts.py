"""Waiting for facts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], *, within: float = 20.0) -> T:
    """What `look` gives, once it gives something true without raising."""
    deadline = time.monotonic() + within
    while True:
        try:
            found = await look()
        except Exception:
            if time.monotonic() > deadline:
                raise
        else:
            if found:
                return found
            assert time.monotonic() < deadline, f"still not true after {within} s"
        await asyncio.sleep(0.01)
