"""Writes that hold only while nobody else wrote: the error of a lost race, and deciding again after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jsjobs.model.errors import JobError, Reason

_AGAIN_AFTER = 0.02
"""Seconds after a lost race, in which a replica has mostly caught up."""

T = TypeVar("T")


class LostRace(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """Somebody else wrote first: read again and decide anew."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(Reason.PROCESSING, message, job_id=job_id)


async def settled(
    change: Callable[[], Awaitable[T]], *, within: float | None = None, else_say: str = "", job_id: str | None = None
) -> T:
    """Read and change again and again, until nobody interferes.

    Args:
        change: Reads again at each call; raises `LostRace` if somebody else was first.
        within: Seconds after which to give up while others keep interfering; None: never.
        else_say: The text of the error in that case; without a text the last lost race is raised itself.
        job_id: The job in question.

    Raises:
        LostRace: If others keep interfering, and `else_say` is empty.
        JobError: `RunnerUnavailable`, if others keep interfering; whatever `change` raises.
    """
    deadline = None if within is None else time.monotonic() + within
    while True:
        try:
            return await change()
        except LostRace as error:
            if deadline is not None and time.monotonic() > deadline:
                if not else_say:
                    raise
                raise JobError.from_runner_unavailable(else_say, job_id=job_id) from error
            await asyncio.sleep(_AGAIN_AFTER)
