"""Whether a stream that does not answer is missing, or only has no leader for a moment."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.model.errors import JobError

ASK_AGAIN = 0.05


async def comes_back(connection: Connection, stream: str, deadline: float) -> bool:
    """Nobody took a publish: whether it is worth another try now.

    Args:
        connection: To the server.
        stream: Which was to take it.
        deadline: Until when to try, on the monotonic clock.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    with suppress(JobError):  # nobody may answer for it either, and who publishes need not have the right to ask
        if await find(connection, f"STREAM.INFO.{stream}", timeout=min(left, 1.0)) is None:
            return False
    await asyncio.sleep(ASK_AGAIN)
    return True
