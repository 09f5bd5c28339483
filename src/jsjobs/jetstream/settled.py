"""Changes that are decided on what stands there: made anew where somebody else was first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jsjobs.jetstream.schedules import ScheduleChanged
from jsjobs.model.errors import JobError

T = TypeVar("T")

_LOOK_AGAIN = 0.02
"""Seconds after a lost race, in which a replica has mostly caught up."""


async def settled(change: Callable[[], Awaitable[T]], *, within: float, else_say: str, job_id: str | None = None) -> T:
    """Look and change, until nobody was in between.

    Args:
        change: Looks anew at each call; raises `ScheduleChanged` where somebody else was first.
        within: Seconds in which others must come to an end.
        else_say: What to say where they do not.
        job_id: The job that it is about.

    Raises:
        JobError: `RunnerUnavailable`, if others do not come to an end; what `change` raises.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            return await change()
        except ScheduleChanged as error:
            if time.monotonic() > deadline:
                raise JobError.from_runner_unavailable(else_say, job_id=job_id) from error
            await asyncio.sleep(_LOOK_AGAIN)
