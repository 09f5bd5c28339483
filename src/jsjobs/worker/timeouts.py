"""Keep the time limits of a worker's handlers on one timer: one timer each would cost as much as a short handler."""

from __future__ import annotations

import asyncio
from typing import Protocol

_AT_ONCE = 0.002
"""Seconds by which an event loop's clock may lag behind its timers."""


class Limited(Protocol):
    """Anything that has a time limit."""

    def time_is_up(self) -> None:
        """Handle the end of the time limit."""
        ...


class TimeLimits:
    """Tell each handler, once, when its time is up."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        """The worker's event loop. It is kept since, up to Python 3.11, asking for it costs a system call."""
        self._due: dict[Limited, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, limited: Limited, seconds: float) -> None:
        """Start the time of one handler."""
        due = self._due[limited] = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(due, self._ring)
        elif due < self._timer.when():
            self._timer.cancel()
            self._timer = self.loop.call_at(due, self._ring)

    def end(self, limited: Limited) -> None:
        """Forget a handler that has ended, or never had a limit."""
        # The timer stays: it will find nothing to tell, and the next handler need not set one.
        self._due.pop(limited, None)

    def close(self) -> None:
        """Stop the timer, and tell nobody any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        now = self.loop.time() + _AT_ONCE
        for limited in [limited for limited, due in self._due.items() if due <= now]:
            del self._due[limited]
            limited.time_is_up()
        self._timer = self.loop.call_at(min(self._due.values()), self._ring) if self._due else None
