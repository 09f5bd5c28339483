"""From a dead job's entry and message to its row in the table. Pure."""

from __future__ import annotations

from datetime import datetime

from jsjobs.jetstream.letters import Letter
from jsjobs.jetstream.wire import JobHeaders, UnreadableHeaders, lenient_pairs, parse_job_headers
from jsjobs.model.context import DEFAULT_TENANT
from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.postgres.dead_letters import FailedAttempt, NewDeadLetter


def row(letter: Letter, entry: JobStatusResponse | None, now: datetime) -> NewDeadLetter:
    """What is stored of a dead job.

    Args:
        letter: Its message.
        entry: Its entry, with the history; None if the bucket has lost it, then the letter alone must do.
        now: When it is stored.
    """
    own = _own_headers(letter.header)
    priority = letter.job_id.partition("-")[0]
    # Only such an entry vouches for the letter; a row without errors gives way to the true one, should it come.
    vouched = entry if entry and entry.status is Status.FAILED else None
    return NewDeadLetter(
        original_job_id=letter.job_id,
        app_id=(entry.tenant if entry else own.tenant) or DEFAULT_TENANT,
        type=entry.type if entry else "",
        priority=entry.priority if entry else priority,
        entity=entry.entity if entry else own.entity,
        batch_id=entry.batch_id if entry else own.batch_id,
        payload=letter.body,
        headers=lenient_pairs(letter.header),
        headers_raw=letter.header or None,
        traceparent=own.trace.traceparent or letter.traceparent,
        error_reason=(entry.error_reason if entry else None) or letter.reason,
        error_history=errors(vouched) if vouched else [],
        errors_dropped=vouched.errors_dropped if vouched else 0,
        attempts=entry.attempts if entry else 0,
        created_at=entry.created_at if entry else None,
        dead_at=(entry.completed_at if entry else None) or now,
    )


def errors(entry: JobStatusResponse) -> list[FailedAttempt]:
    """Every failure in the job's history, oldest first: all but the `errors_dropped` of the entry."""
    return [
        {"attempt": item.attempt, "error": item.error, "timestamp": item.timestamp.isoformat()}
        for item in entry.history
        if item.error is not None
    ]


def _own_headers(header: bytes) -> JobHeaders:
    try:
        return parse_job_headers(header)
    except UnreadableHeaders as error:
        return error.readable
