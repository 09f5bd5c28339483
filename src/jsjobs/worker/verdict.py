"""What running a job can yield. The executor returns one, `settle` applies it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from jsjobs.model.errors import Reason
from jsjobs.model.retry import RetryState


@dataclass(frozen=True, slots=True)
class Complete:
    """The handler returned."""

    result: bytes | None
    """JSON; None where the handler returned nothing."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The attempt failed and another follows."""

    delay: float
    """Seconds."""
    error: str
    retry: RetryState
    error_type: str = field(default="", compare=False)
    """The exception's type, or a `JobError`'s reason: for those who watch."""


@dataclass(frozen=True, slots=True)
class SnoozeFor:
    """The handler asked to be called again later; the attempt does not count."""

    delay: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job is dead."""

    reason: Reason
    error: str
    error_type: str = field(default="", compare=False)
    cause: BaseException | None = field(default=None, compare=False)
    """What the last attempt ended in, with its traceback: for a developer's tests."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled while it ran, and its handler has ended."""


@dataclass(frozen=True, slots=True)
class Release:
    """The worker is stopping: the job goes back unharmed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker lost its lease: another may run the job by now, so nothing is written or sent."""

    why: str


class Outcome(StrEnum):
    """What an attempt really came to, once it is settled."""

    COMPLETE = "complete"
    RETRY = "retry"
    SNOOZED = "snoozed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"
    """Nothing was written: the job was another's, or could not be settled and comes back."""


NotComplete = RetryAfter | SnoozeFor | DeadLetter | Cancelled | Release | Lost
Verdict = Complete | NotComplete
