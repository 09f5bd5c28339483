"""What a delivery means for its job, decided from the job's entry alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.state import Found
from jsjobs.model.errors import Reason
from jsjobs.model.job import JobStatusResponse, Status

WORKER_LOST = "the worker was lost while it ran the job"


@dataclass(frozen=True, slots=True)
class Start:
    """Write this `processing` entry; with its acknowledgement the job is this worker's."""

    entry: JobStatusResponse
    expected: int
    after_loss: bool = False
    """Whether the attempt before was lost with its worker."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended, or another copy carries it: acknowledge, and run nothing."""

    why: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was cancelled while it waited: acknowledge it, and let its entry age, which nobody has done yet."""

    entry: JobStatusResponse
    expected: int


@dataclass(frozen=True, slots=True)
class Rebury:
    """The job is dead and its letter may be lost: publish it again, then end the message."""

    entry: JobStatusResponse


@dataclass(frozen=True, slots=True)
class Wait:
    """Another worker may still be running it: keep the delivery alive for so many seconds, then look again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Bury:
    """The job's attempts are spent by workers that died: it is dead."""

    entry: JobStatusResponse
    expected: int
    reason: Reason
    error: str


Decision = Start | Ended | Cancelled | Rebury | Wait | Bury


def decide(
    found: Found | None, job: IncomingJob, *, worker: str, now: datetime, server_now: datetime, ack_wait: float
) -> Decision:
    """What to do with a delivered job.

    Args:
        found: The job's entry; None if there is none.
        job: What its message says.
        worker: This worker's name, for the entry.
        now: The worker's clock, for the history.
        server_now: The server's clock, which also stamped the entry: the age of a lease is counted on one clock.
        ack_wait: Seconds that a lease lasts.
    """
    if found is None:
        return Start(job.entry().started(now, worker), 0)
    if found.entry is None:
        return Ended("its entry has expired")
    entry = job.own(found.entry)
    if entry is None:
        return Ended("another copy carries this id")
    if entry.status is Status.CANCELLED and not found.expires:
        return Cancelled(entry, found.revision)
    if entry.carrier is None:
        entry = _adopted(entry, job)
    match entry.status:
        case Status.COMPLETE | Status.CANCELLED:
            return Ended(f"it is {entry.status}")
        case Status.FAILED:
            return Rebury(entry)
        case Status.QUEUED:
            return Start(entry.started(now, worker), found.revision)
        case Status.PROCESSING:
            left = ack_wait - (server_now - found.stored_at).total_seconds()
            return Wait(min(left, ack_wait)) if left > 0 else taken_over(entry, found.revision, now, worker)


def taken_over(entry: JobStatusResponse, revision: int, now: datetime, worker: str) -> Start | Bury:
    """The next attempt after one whose worker was lost, or the job's end if that was the last."""
    error = f"attempt {entry.attempts}: {WORKER_LOST} ({entry.worker})"
    if entry.attempts >= entry.max_attempts:
        return Bury(entry, revision, Reason.MAX_RETRIES, error)
    queued = entry.retried(now, error, due=now, retry=entry.retry)
    return Start(queued.started(now, worker), revision, after_loss=True)


def _adopted(entry: JobStatusResponse, job: IncomingJob) -> JobStatusResponse:
    """The entry of a given id, written at its submit, and now named after the copy that starts."""
    fields = {
        "carrier": job.carrier,
        "type": job.type,
        "priority": job.priority,
        "max_attempts": job.headers.max_attempts,
    }
    return entry.model_copy(update=fields)
