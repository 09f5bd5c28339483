"""From a dead job's entry and message to its row in the table. Pure."""

from __future__ import annotations

from datetime import datetime

from jsjobs.jetstream.letters import Letter
from jsjobs.jetstream.wire import UnreadableHeaders, lenient_pairs, parse_job_headers
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
    tenant, entity, batch = _own_names(letter.header)
    priority = letter.job_id.partition("-")[0]
    return NewDeadLetter(
        original_job_id=letter.job_id,
        app_id=(entry.tenant if entry else tenant) or DEFAULT_TENANT,
        type=entry.type if entry else "",
        priority=entry.priority if entry else priority,
        entity=entry.entity if entry else entity,
        batch_id=entry.batch_id if entry else batch,
        payload=letter.body,
        headers=lenient_pairs(letter.header),
        headers_raw=letter.header or None,
        error_reason=(entry.error_reason if entry else None) or letter.reason,
        # Only such an entry vouches for the letter; a row without errors gives way to the true one, should it come.
        error_history=errors(entry) if entry and entry.status is Status.FAILED else [],
        attempts=entry.attempts if entry else 0,
        created_at=entry.created_at if entry else None,
        dead_at=(entry.completed_at if entry else None) or now,
    )


def errors(entry: JobStatusResponse) -> list[FailedAttempt]:
    """Every failure in the job's history, oldest first."""
    return [
        {"attempt": item.attempt, "error": item.error, "timestamp": item.timestamp.isoformat()}
        for item in entry.history
        if item.error is not None
    ]


def _own_names(header: bytes) -> tuple[str | None, str | None, str | None]:
    try:
        headers = parse_job_headers(header)
    except UnreadableHeaders as error:
        headers = error.readable
    return headers.tenant, headers.entity, headers.batch_id
