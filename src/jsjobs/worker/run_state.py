"""The states of a delivery in a worker's hand, the moves between them, and the requests that reach it. Pure.

`docs/settlement.md` shows both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """The states of a delivery that a worker has in hand."""

    CLAIMING = "claiming"
    """Its entry is read, and the decision that follows is written."""
    HELD = "held"
    """Kept alive until another run of the job has ended, or another worker's lease is over."""
    SNOOZED = "snoozed"
    """Its handler snoozed: kept alive until it is due."""
    WAITING = "waiting"
    """Kept alive until it has a slot again."""
    STARTING = "starting"
    """Its entry says `processing`; the handler has not begun."""
    RUNNING = "running"
    """The handler runs."""
    SETTLING = "settling"
    """The handler has ended; its outcome is written, and the delivery answered."""
    OVER = "over"
    """Nothing is left to do here: it is answered, or comes back by itself."""


class Stop(StrEnum):
    """The reasons why a delivery's handler is asked to end, or not to begin."""

    RELEASE = "the worker is stopping"
    TIMEOUT = "its time limit has passed"
    CANCEL = "the job was cancelled"
    LOST = "the lease was lost"


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.CLAIMING: frozenset({State.HELD, State.SNOOZED, State.WAITING, State.STARTING, State.OVER}),
        State.HELD: frozenset({State.CLAIMING, State.OVER}),
        State.SNOOZED: frozenset({State.CLAIMING, State.OVER}),
        State.WAITING: frozenset({State.CLAIMING, State.OVER}),
        State.STARTING: frozenset({State.RUNNING, State.OVER}),
        State.RUNNING: frozenset({State.SETTLING, State.OVER}),
        State.SETTLING: frozenset({State.SNOOZED, State.OVER}),
        State.OVER: frozenset(),
    }
)
"""The states that may follow each one."""

ENDED_BY: Mapping[State, frozenset[Stop]] = MappingProxyType(
    {
        # A lost delivery is held on: a newer run takes the end of this one for the end of all before it.
        State.HELD: frozenset({Stop.RELEASE}),
        State.SNOOZED: frozenset({Stop.RELEASE, Stop.CANCEL, Stop.LOST}),
        State.WAITING: frozenset({Stop.RELEASE, Stop.CANCEL, Stop.LOST}),
        State.RUNNING: frozenset(Stop),
    }
)
"""The requests that end each state at once; in any other state they are noted, and looked at before the next move."""

HAS_BEGUN = frozenset({State.STARTING, State.RUNNING, State.SETTLING})
"""The states of an attempt that is written as begun."""
