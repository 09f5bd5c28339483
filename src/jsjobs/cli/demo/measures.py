"""Measure the times of jobs, from their entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from jsjobs.model.job import JobStatusResponse, Status


def started(entry: JobStatusResponse) -> datetime:
    """Return when the job's first attempt began."""
    return next(item.timestamp for item in entry.history if item.status is Status.PROCESSING)


def ended(entry: JobStatusResponse) -> datetime:
    """Return when the job ended, however it ended."""
    return entry.history[-1].timestamp


def waits(entries: Sequence[JobStatusResponse]) -> list[float]:
    """Return the milliseconds from the moment the server stored each job, or it was due, to its start."""
    return [_ms(entry, started(entry)) for entry in entries]


def totals(entries: Sequence[JobStatusResponse]) -> list[float]:
    """Return the milliseconds from the moment the server stored each job, or it was due, to its end."""
    return [_ms(entry, ended(entry)) for entry in entries]


def late_ms(entry: JobStatusResponse) -> float:
    """Return the milliseconds from the moment a job was due to its start; negative if it started too early."""
    return _ms(entry, started(entry))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that this many percent of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _ms(entry: JobStatusResponse, moment: datetime) -> float:
    begin = entry.scheduled_for or entry.created_at
    assert begin is not None
    return (moment - begin).total_seconds() * 1000
