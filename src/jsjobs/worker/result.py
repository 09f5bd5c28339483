"""The possible results of running a job: the executor returns one of these verdicts, and `Settlement` applies it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from jsjobs.model.errors import Reason
from jsjobs.model.retry import RetryState


@dataclass(frozen=True, slots=True)
class Complete:
    """The handler returned."""

    result: bytes | None
    """The result as JSON; None if the handler returned nothing."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The attempt failed and another follows."""

    delay: float
    """Seconds until the next attempt."""
    error: str
    retry: RetryState
    error_type: str = field(default="", compare=False)
    """The exception's type, or a `JobError`'s reason, for telemetry."""


@dataclass(frozen=True, slots=True)
class SnoozeFor:
    """The handler asked to be called again later; the attempt does not count."""

    delay: float
    """Seconds until the next call."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job is dead."""

    reason: Reason
    error: str
    error_type: str = field(default="", compare=False)
    cause: BaseException | None = field(default=None, compare=False)
    """The exception of the last attempt, with its traceback, for a developer's tests."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled while it ran, and its handler has ended."""


@dataclass(frozen=True, slots=True)
class Release:
    """The worker is stopping: the job goes back, and the attempt does not count."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker lost its lease: another may run the job by now, so nothing is written or sent."""

    why: str


class Outcome(StrEnum):
    """The real outcome of an attempt, once it is settled."""

    COMPLETE = "complete"
    RETRY = "retry"
    SNOOZED = "snoozed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"
    """Nothing was written: another worker has the job, or it could not be settled and comes back."""


NotComplete = RetryAfter | SnoozeFor | DeadLetter | Cancelled | Release | Lost
Verdict = Complete | NotComplete
