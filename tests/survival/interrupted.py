"""A long run that is told to end: what it has started is ended too."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
CODE = 130
"""The exit code of a run that was told to end."""


def run_until_told(work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None where a signal ended it."""
    try:
        return asyncio.run(_listening(work))
    except asyncio.CancelledError:
        return None


async def _listening(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work
