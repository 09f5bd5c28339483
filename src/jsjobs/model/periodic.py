"""A periodic schedule, as it is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from jsjobs.model.job import Duration, Priority


class ScheduleStatus(BaseModel):
    """A periodic schedule: what it submits, and when."""

    model_config = ConfigDict(frozen=True)

    name: str
    timetable: str
    """A cron as it was written, or `every 30s`."""
    zone: str | None = None
    """The IANA time zone of a cron; None: UTC."""
    type: str
    payload: Any = None
    priority: Priority
    entity: str | None = None
    tenant: str | None = None
    max_attempts: int | None = None
    """The most attempts of each job; None: as its handler's policy says."""
    duration: Duration | None = None
    """The duration of each job; None: short, unless its `timeout` needs more."""
    timeout: float | None = None
    """Seconds that one attempt of a job may take."""
    owner: str | None = None
    """The application whose code declares it; None: it was added by hand."""
    paused: bool = False
    changed_at: datetime
    """When the schedule was last added or changed."""
    next: tuple[datetime, ...] = ()
    """The next five due times, in UTC; none while it is paused."""
