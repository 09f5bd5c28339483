"""The time limits of all handlers of a worker, on one timer: one for each would cost as much as a short handler."""

from __future__ import annotations

import asyncio
from typing import Protocol

_AT_ONCE = 0.002
"""Seconds by which a loop's clock may be behind its timers."""


class Limited(Protocol):
    """What has a limit."""

    def time_is_up(self) -> None:
        """Its limit has passed."""
        ...


class TimeLimits:
    """Tells each, once, when its time is up."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        """The worker's: to ask for it again costs a system call, up to Python 3.11."""
        self._due: dict[Limited, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, limited: Limited, seconds: float) -> None:
        """Its time runs from now on."""
        due = self._due[limited] = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(due, self._ring)
        elif due < self._timer.when():
            self._timer.cancel()
            self._timer = self.loop.call_at(due, self._ring)

    def end(self, limited: Limited) -> None:
        """It has ended, or never had a limit."""
        # The timer stays: it finds nothing to tell, and the next of many handlers needs none of its own.
        self._due.pop(limited, None)

    def close(self) -> None:
        """Nobody is told any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        now = self.loop.time() + _AT_ONCE
        for limited in [limited for limited, due in self._due.items() if due <= now]:
            del self._due[limited]
            limited.time_is_up()
        self._timer = self.loop.call_at(min(self._due.values()), self._ring) if self._due else None
