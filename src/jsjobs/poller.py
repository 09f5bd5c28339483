"""Repeat a look at something in the background, at intervals and when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jsjobs.cancellation import at_most


class Poller:
    """Calls an async function again and again in a task of its own, which a lost cancellation does not keep alive.

    Args:
        look: What is called; it must not raise.
        pause: Tells how many seconds to wait after a look.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
        self._look = look
        self._pause = pause
        self._soon = asyncio.Event()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with a pause; call `soon` to begin with a look."""
        self._stopped = False
        self._task = asyncio.ensure_future(self._run())

    def soon(self) -> None:
        """Look now, without waiting for the pause to end."""
        self._soon.set()

    async def stop(self) -> None:
        """Interrupt what is under way, and look no more; stopping again does nothing."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopped:  # a cancellation alone can be lost: Python 3.11's `wait_for` swallows some
            await at_most(self._pause(), self._soon.wait())
            self._soon.clear()
            await self._look()
