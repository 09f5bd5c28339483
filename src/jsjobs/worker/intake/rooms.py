"""Hold handlers with a limit of their own to it: a job for which its handler has no room goes back for a moment."""

from __future__ import annotations

import random
from typing import Protocol

from jsjobs.handlers.registry import Registration
from jsjobs.worker.intake.slots import Room, Slot

SHORTEST, LONGEST = 0.1, 1.0
"""Seconds for which a job stays away whose handler has no room."""
_OFTEN = 20
"""Deliveries after which a job stays away for longer, so that a long backlog is not sent around all the time."""
_FACTOR = 10
"""The factor by which a job that came often stays away for longer, at most."""
NOTED_EVERY = 500
"""Deliveries after which it is written that a job waits for room: a job that is only ever given back becomes dead."""
_random = random.Random()  # noqa: S311 - it spreads the deliveries, no more


class Roomed(Protocol):
    """A delivery that is about to begin."""

    registration: Registration | None
    slot: Slot


class Rooms:
    """The rooms of one worker's handlers."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}

    def enter(self, run: Roomed) -> bool:
        """Take a place in the room of a delivery's handler, if that has a limit; return False if it is full."""
        handler = run.registration
        if handler is None or handler.concurrency is None:
            return True
        room = self._rooms.get(handler.type)
        if room is None:
            room = self._rooms[handler.type] = Room(handler.concurrency)
        return run.slot.enter(room)


def delay_without_room(attempt: int) -> float:
    """Return the seconds for which a job stays away whose handler has no room.

    Args:
        attempt: How often the job was delivered.
    """
    return _random.uniform(SHORTEST, LONGEST) * max(1, min(_FACTOR, attempt / _OFTEN))
