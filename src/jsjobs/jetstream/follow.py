"""Following a job without a consumer on the server: a plain subscription hints that something may be new, a read tells.

A hint is not the truth: a write that loses its race is seen by subscribers too, and a hint may come before its message
is stored. So a hint is followed by a few looks in quick succession, and without hints there is a look now and then,
which also carries over a lost connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from jsjobs.jetstream.connection import Connection

AFTER_HINT = (0.001, 0.004, 0.02, 0.1)
"""Seconds to the looks after a hint."""
_LIVE = re.compile(rb'\{"job_id":"[^"]*","status":"(queued|processing)"')
_IDLE = 1.0
"""Seconds between looks without hints."""


def may_tell_end(entry: bytes) -> bool:
    """Whether a hint's message may be an entry of a job that has ended; one that surely is not needs no look."""
    return _LIVE.match(entry) is None


async def looks(connection: Connection, subjects: Sequence[bytes]) -> AsyncGenerator[None, None]:
    """Yield whenever it is time to look: at once, after hints, and every second. Close it to unsubscribe."""
    hinted = asyncio.Event()

    def on_hint(_subject: bytes, _reply: bytes, _header: bytes, _data: bytes) -> None:
        hinted.set()

    subscriptions: list[int] = []
    follow_ups: list[float] = list(AFTER_HINT)
    try:
        for subject in subjects:
            subscriptions.append(await connection.receive(subject, on_hint))  # noqa: PERF401 - each is undone below
        while True:
            yield
            if hinted.is_set():
                hinted.clear()
                follow_ups = list(AFTER_HINT)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(follow_ups.pop(0) if follow_ups else _IDLE):
                    await hinted.wait()
    finally:
        for subscription in subscriptions:
            await connection.stop_receiving(subscription, drain=False)
