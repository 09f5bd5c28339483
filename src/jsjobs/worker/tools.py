"""What every run of a worker shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from jsjobs.jetstream.progress import ProgressSender
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.retry import Retry
from jsjobs.worker.executor import Places
from jsjobs.worker.lease import LeaseTime
from jsjobs.worker.limits import TimeLimits
from jsjobs.worker.registry import Registry
from jsjobs.worker.settle import Settlement

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What claiming, running and settling a job takes."""

    worker: str
    names: Names
    state: StateStore
    settlement: Settlement
    registry: Registry
    places: Places
    limits: TimeLimits
    progress: ProgressSender
    retry: Retry
    max_attempts: int | None
    """Of a job of which neither its publisher nor its handler says how many; None: nobody does."""
    lease_time: LeaseTime
    grace: float
    """Seconds between the interruptions of a handler that does not end."""
    clock: Callable[[], datetime]
    server_now: Callable[[], Awaitable[datetime]]
    """The server's clock."""
    is_torn_down: Callable[[], bool]
    """Whether whatever runs in this event loop is being cancelled, this worker too."""
    telemetry: Telemetry | None = None
