"""How long a job waited for its handler."""

from __future__ import annotations

from datetime import datetime

from jsjobs.model.job import JobStatusResponse, Status


def waited(entry: JobStatusResponse, now: datetime) -> float:
    """Seconds since a job that has just been claimed could have run.

    That is since it was stored, or since its retry was due; a job that a stopping worker gave back waits since then.
    """
    # The last item is the claim itself.
    queued = (item.timestamp for item in entry.history[-2:-1] if item.status is Status.QUEUED)
    moments = [*queued, *filter(None, (entry.created_at, entry.scheduled_for, entry.next_attempt_at))]
    return max(0.0, (now - max(moments)).total_seconds()) if moments else 0.0
