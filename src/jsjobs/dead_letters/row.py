"""Build a dead job's row of the table from its entry and message, and open the table that the settings name."""

from __future__ import annotations

from datetime import datetime

from jsjobs.jetstream.jobs.dead_letter_message import Letter
from jsjobs.jetstream.protocol.headers import JobHeaders, UnreadableHeaders, lenient_pairs, parse_job_headers
from jsjobs.model.context import DEFAULT_TENANT
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import FailedAttempt, NewDeadLetter
from jsjobs.postgres.errors import InvalidDatabaseUrl
from jsjobs.settings import Config


def row(letter: Letter, entry: JobStatusResponse | None, now: datetime) -> NewDeadLetter:
    """Return the row of a dead job.

    Args:
        letter: Its letter.
        entry: Its entry, with the history; None if the bucket has lost it, so that only the letter is left.
        now: The time at which it is stored.
    """
    own = _own_headers(letter.header)
    priority = letter.job_id.partition("-")[0]
    # Only a failed entry confirms the letter; a row without errors gives way to the true one if that comes later.
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
    """Return the failures in the job's history, oldest first: all but the entry's `errors_dropped`."""
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


def database_of(config: Config) -> Database:
    """Return the database that the settings name, without connecting to it.

    Raises:
        JobError: `Validation`, if none is set or its URL cannot be read.
    """
    if config.database_url is None:
        raise JobError.from_validation("no database is set: set JSJOBS_DATABASE_URL or DATABASE_URL")
    try:
        return Database(config.database_url.get_secret_value())
    except InvalidDatabaseUrl as error:
        raise JobError.from_validation(str(error)) from error
