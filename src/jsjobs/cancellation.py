"""Keep cancellations: asyncio loses some of those that come in the moment in which a time limit ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine


def end_if_cancelled() -> None:
    """Raise `CancelledError` in a task that is being cancelled, and whose cancellation may have been lost.

    `asyncio.wait_for` of Python 3.11 loses one that comes with the end of what it waits for. `asyncio.timeout` takes
    for its own one that was asked for just before it began, if its time is over at once: uvloop looks at timers first.
    Without this a loop would go on for ever, and whoever cancelled it would wait for it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def at_most(seconds: float, waiting: Awaitable[object]) -> None:
    """Wait for something in a loop, until it happens or the time is over; a cancellation ends the loop.

    Args:
        seconds: How long to wait.
        waiting: What is waited for; it must not raise `TimeoutError`.
    """
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        end_if_cancelled()


class Shared:
    """Work that several callers wait for together; it is cancelled with the last of them."""

    def __init__(self, work: Coroutine[object, object, None]) -> None:
        """Start the work in the running event loop."""
        self._task = asyncio.ensure_future(work)
        self._callers = 0

    def is_usable(self) -> bool:
        """Return whether it goes on, in this event loop, so that one more may wait for it."""
        return not self._task.done() and self._task.get_loop() is asyncio.get_running_loop()

    async def result(self) -> None:
        """Wait for its end; raise what it raised."""
        self._callers += 1
        try:
            await asyncio.shield(self._task)
        finally:
            self._callers -= 1
            if not self._callers and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})
