"""Decide what to do with a delivered job, from the job's entry alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.jetstream.jobs.state_store import Found, UnreadableEntry
from jsjobs.model.errors import Reason
from jsjobs.model.job import DEFAULT_MAX_ATTEMPTS, Duration, JobStatusResponse, Status
from jsjobs.model.times import rfc3339

WORKER_LOST = "the worker was lost while it ran the job"


class Start(NamedTuple):
    """Write this `processing` entry; once the write is acknowledged, the job is this worker's."""

    entry: JobStatusResponse
    expected: int
    after_loss: bool = False
    """Whether the previous attempt was lost with its worker."""

    after_snooze: bool = False
    """Whether its handler snoozed before: the priority may have been paused while a worker held the job."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended, or another copy has its id: acknowledge the delivery, and run nothing."""

    why: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled while it waited: acknowledge it, and give its entry the time to live that it lacks."""

    entry: JobStatusResponse
    expected: int


@dataclass(frozen=True, slots=True)
class ResendDeadLetter:
    """The job is dead and its letter may be lost: publish it again, then end the message."""

    entry: JobStatusResponse


@dataclass(frozen=True, slots=True)
class Wait:
    """Another worker may still be running the job: keep the delivery alive for some seconds, then read again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ignore:
    """Another worker may run the job for long, and this delivery came too early or too late: answer nothing.

    Too early: a restarted server, or a new leader, delivers at once what had waited for longer than `ack_wait` before
    it was delivered (docs/server-quirks.md#an-early-delivery).
    Too late: the delivery waited in a buffer while this worker stood still, and the message was redelivered meanwhile.
    If the other worker lives, its heartbeats and its end count; if not, the job comes back after `ack_wait`.
    """


@dataclass(frozen=True, slots=True)
class Sleep:
    """The handler snoozed: keep the delivery alive for some seconds, then read again."""

    seconds: float
    revision: int
    """The entry's revision; as long as the entry has it, nobody else has decided anything."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The job is dead: its attempts were used up by workers that died, or its entry cannot be read."""

    entry: JobStatusResponse
    expected: int
    reason: Reason
    error: str
    after_loss: bool = False
    """Whether an attempt was lost with its worker."""


@dataclass(frozen=True, slots=True)
class Expire:
    """The job is dead: nobody started it in time."""

    entry: JobStatusResponse
    expected: int
    error: str
    drop: bool
    """Whether no letter is wanted."""


Decision = Start | Ended | Cancelled | ResendDeadLetter | Wait | Ignore | Sleep | Dead | Expire


def decide(
    found: Found | None,
    job: IncomingJob,
    *,
    worker: str,
    now: datetime,
    server_now: datetime,
    ack_wait: float,
    margin: float,
    sleeps: bool = True,
) -> Decision:
    """Decide what to do with a delivered job.

    Args:
        found: The job's entry; None if there is none.
        job: The job as its message has it.
        worker: This worker's name, for the entry.
        now: The worker's time, for the history.
        server_now: The server's time. The server also stamped the entry, so the age of a lease is counted on one clock.
        ack_wait: Seconds that a lease lasts.
        margin: Seconds by which a server that has not heard of the job's worker may deliver early.
        sleeps: Whether a snoozed job waits until it is due.
    """
    if found is None or found.is_deleted:
        # A worker that runs a job whose entry was deleted learns of it by the end of its lease, or loses the job.
        left = 0.0 if found is None else _lease_left(found, server_now, ack_wait)
        start = _begun(job.entry(), found.revision if found else 0, job, now, server_now, worker)
        return Wait(left) if left > 0 else start
    if found.problem is not None:
        return _unreadable(found, found.problem, job, server_now, ack_wait)
    if found.entry is None or (entry := job.own(found.entry)) is None:
        return Ended("its entry has expired" if found.entry is None else "another copy carries this id")
    if entry.status is Status.CANCELLED and not found.expires:
        return Cancelled(entry, found.revision)
    entry = _adopted(entry, job) if entry.carrier is None else entry
    match entry.status:
        case Status.COMPLETE | Status.CANCELLED:
            return Ended(f"it is {entry.status}")
        case Status.FAILED:
            # It expires once its letter is stored, or from the start if no letter is wanted.
            return Ended("it is failed, and needs no letter") if found.expires else ResendDeadLetter(entry)
        case Status.QUEUED if entry.snoozed_until is not None:
            seconds = left_to_wait(entry, found.stored_at, server_now) if sleeps else 0
            start = Start(entry.started(now, worker), found.revision, after_snooze=True)
            return Sleep(seconds, found.revision) if seconds > 0 else start
        case Status.QUEUED:
            return _begun(entry, found.revision, job, now, server_now, worker)
        case Status.PROCESSING:
            left = _lease_left(found, server_now, ack_wait)
            return taken_over(entry, found.revision, now, worker) if left <= 0 else _not_yet(job, left, margin)


def taken_over(entry: JobStatusResponse, revision: int, now: datetime, worker: str) -> Start | Dead:
    """Return the next attempt after one whose worker was lost, or the job's end if that was the last."""
    error = f"attempt {entry.attempts}: {WORKER_LOST} ({entry.worker})"
    if entry.attempts >= entry.max_attempts:
        return Dead(entry, revision, Reason.MAX_RETRIES, error, after_loss=True)
    queued = entry.retried(now, error, due=now, retry=entry.retry)
    return Start(queued.started(now, worker), revision, after_loss=True)


def _unreadable(
    found: Found, problem: UnreadableEntry, job: IncomingJob, server_now: datetime, ack_wait: float
) -> Ended | Wait | Dead:
    """Decide what to do with a job whose entry this version cannot read: an end in it stands, else the job is dead.

    A worker of another version may be running the job: its lease is waited for like any other.
    """
    if found.is_over:
        return Ended(f"it is {problem.status}, says an entry that cannot be read")
    left = _lease_left(found, server_now, ack_wait)
    if problem.status is not Status.FAILED and left > 0:
        return Wait(left)
    return Dead(job.entry(), found.revision, problem.reason, problem.message)


def _lease_left(found: Found, server_now: datetime, ack_wait: float) -> float:
    """Return the seconds for which the worker that wrote an entry may still run the job; none does at 0 or less."""
    return min(ack_wait, ack_wait - (server_now - found.stored_at).total_seconds())


def _not_yet(job: IncomingJob, left: float, margin: float) -> Wait | Ignore:
    """Decide what to do while another worker's lease lasts: a short job ends with it, a long one may go on."""
    return Ignore() if left > margin and job.headers.duration is Duration.LONG else Wait(left)


def left_to_wait(entry: JobStatusResponse, stored_at: datetime, server_now: datetime) -> float:
    """Return the seconds until a job that snoozed, or waits for a retry, is due; it is due at zero or less.

    They count from when the server took the entry: the worker that wrote it may have another clock than this one.
    """
    if entry.next_attempt_at is None or not entry.history:
        return 0
    whole = (entry.next_attempt_at - entry.history[-1].timestamp).total_seconds()
    return min(whole, whole - (server_now - (entry.waits_since or stored_at)).total_seconds())


def _begun(
    entry: JobStatusResponse, revision: int, job: IncomingJob, now: datetime, server_now: datetime, worker: str
) -> Start | Expire:
    """Return the next attempt, or the job's end if it expired before its first one."""
    expires = job.headers.expires
    if expires is None or server_now < expires or job.problem is not None or _has_started(entry):
        return Start(entry.started(now, worker), revision)
    due = entry.scheduled_for or entry.created_at or job.carrier.stored_at
    waited = max(0.0, (server_now - due).total_seconds())
    error = f"the job expired at {rfc3339(expires)}, before it was started; it had waited {waited:.1f} s"
    return Expire(entry, revision, error, job.headers.drop_expired)


def _has_started(entry: JobStatusResponse) -> bool:
    # The count of attempts may be 0 again, since a release or a snooze takes one back.
    return any(item.status is Status.PROCESSING for item in entry.history)


def _adopted(entry: JobStatusResponse, job: IncomingJob) -> JobStatusResponse:
    """Return the entry of a given id, written at its submit, with the details of the copy that starts."""
    fields = {
        "carrier": job.carrier,
        "type": job.type,
        "priority": job.priority,
        "max_attempts": job.headers.max_attempts or DEFAULT_MAX_ATTEMPTS,
    }
    return entry.model_copy(update=fields)
