"""What running a job can yield. The executor returns one, `settle` applies it."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job is dead."""

    reason: Reason
    error: str


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


Verdict = Complete | RetryAfter | DeadLetter | Cancelled | Release | Lost
