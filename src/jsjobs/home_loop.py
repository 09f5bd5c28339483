"""Tie a connection to its event loop: use in another one is refused before anything is sent."""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable

from jsjobs.model.errors import JobError, Reason

_FORKED = object()
"""A stand-in for the loop of anything opened before this process was forked: no loop of the child equals it."""


class WrongLoop(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """A service was used outside the event loop in which it was connected; nothing was sent."""

    def __init__(self, why: str) -> None:
        super().__init__(Reason.VALIDATION, f"{why}. Nothing was sent")


class HomeLoop:
    """The running event loop, kept by an object that is bound to it.

    Args:
        owner: The object that is bound to the loop.
        on_fork: Called in a child process that is forked meanwhile.
    """

    def __init__(self, owner: object, on_fork: Callable[[], None] | None = None) -> None:
        self.loop: object = asyncio.get_running_loop()
        """The loop; compared with the running one wherever something is about to be sent."""
        self._owner = owner
        self._on_fork = on_fork
        _known.add(self)

    def check(self) -> None:
        """Raise `WrongLoop` if another loop runs here, or no loop."""
        if _get_running_loop() is not self.loop:
            raise self.refusal()

    @property
    def is_gone(self) -> bool:
        """Return whether the loop can no longer be used: it has ended, or belongs to the process that forked this."""
        return not isinstance(self.loop, asyncio.AbstractEventLoop) or self.loop.is_closed()

    def refusal(self) -> WrongLoop:
        """Return the error for a caller that is not in this loop."""
        again = "connect it again in this one, `async with jobs:`"
        if self.loop is _FORKED:
            return WrongLoop(f"this JobService was connected before the process was forked: {again}")
        if self.is_gone:
            return WrongLoop(f"the event loop in which this JobService was connected has ended: {again}")
        return WrongLoop(
            "this JobService is connected in another event loop and works only there: hand the call over to that "
            "loop, `asyncio.run_coroutine_threadsafe(jobs.submit(…), loop).result()`, make a plain handler async, or "
            "connect another JobService here, `async with JobService(config) as jobs:`"
        )

    def _after_fork(self) -> None:
        self.loop = _FORKED
        _inherited.append(self._owner)
        if self._on_fork is not None:
            self._on_fork()


_known: weakref.WeakSet[HomeLoop] = weakref.WeakSet()
_inherited: list[object] = []
"""Objects kept in a child process: freed, they would be closed, and leave the selector shared with the parent."""


def _after_fork() -> None:
    for home in list(_known):
        home._after_fork()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
