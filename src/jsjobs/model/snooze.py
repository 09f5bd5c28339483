"""What a handler raises to be called again later."""

from __future__ import annotations

from datetime import timedelta

from jsjobs.model.times import checked_seconds

LONGEST = 366 * 86_400
"""Seconds: one year."""


class Snooze(Exception):  # noqa: N818 - it is no error, and reads as what the handler says
    """Raised by a handler: the job comes back after a while, and this attempt does not count.

    The job keeps its place meanwhile, and with it the one slot of its shard: the jobs behind it wait too. Where the
    wait is long and the order does not matter, submit a delayed job instead.

    Args:
        delay: Seconds above 0, or a timedelta; a year at most.

    Raises:
        JobError: `Validation`, if it is anything else. A handler that lets it out is dead for that.
    """

    def __init__(self, delay: float | timedelta) -> None:
        self.seconds = checked_seconds("a snooze", delay, most=LONGEST)
        super().__init__(self.seconds)

    def __str__(self) -> str:
        return f"come back in {self.seconds:g} s"
