"""The event loop that a connection was opened in: it can be used there alone, and says so before anything is sent."""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable

from jsjobs.model.errors import JobError, Reason

_FORKED = object()
"""Stands for the loop of what was opened before this process was forked: no loop of the child is that one."""


class WrongLoop(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """A service was used outside of the event loop that it was connected in; nothing was sent."""

    def __init__(self, why: str) -> None:
        super().__init__(Reason.VALIDATION, f"{why}. Nothing was sent")


class HomeLoop:
    """The running event loop, kept by what is bound to it.

    Args:
        owner: What is bound to it.
        on_fork: Called in a child process that was forked meanwhile.
    """

    def __init__(self, owner: object, on_fork: Callable[[], None] | None = None) -> None:
        self.loop: object = asyncio.get_running_loop()
        """Compared with the running one wherever something is about to be sent."""
        self._owner = owner
        self._on_fork = on_fork
        _known.add(self)

    def check(self) -> None:
        """Raise `WrongLoop` if another loop runs here, or none."""
        if _get_running_loop() is not self.loop:
            raise self.refusal()

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be done in it any more: it has ended, or belongs to the process that forked this one."""
        return not isinstance(self.loop, asyncio.AbstractEventLoop) or self.loop.is_closed()

    def refusal(self) -> WrongLoop:
        """What to tell whoever is not in this loop."""
        again = "connect it again in this one, `async with jobs:`"
        if self.loop is _FORKED:
            return WrongLoop(f"this JobService was connected before the process was forked: {again}")
        if self.is_gone:
            return WrongLoop(f"the event loop in which this JobService was connected has ended: {again}")
        return WrongLoop(
            "this JobService is connected in another event loop and works there alone: hand the call over to that "
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
"""Kept in a child: thrown away, they would be closed, and taken out of the selector that it shares with its parent."""


def _after_fork() -> None:
    for home in list(_known):
        home._after_fork()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
