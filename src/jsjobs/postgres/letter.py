"""A dead letter: one job that could not be saved, with all that is needed to understand it and to replay it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import LetterUnreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from asyncpg import Record


class FailedAttempt(TypedDict):
    """One failure of the job; `timestamp` is RFC 3339."""

    attempt: int
    error: str
    timestamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDeadLetter:
    """A dead letter to be stored. It may hold any text and any bytes: `sanitise` says what becomes of them."""

    original_job_id: str
    type: str
    priority: str
    payload: bytes
    error_reason: str
    attempts: int
    dead_at: datetime
    app_id: str = "default"
    entity: str | None = None
    batch_id: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    headers_raw: bytes | None = None
    traceparent: str | None = None
    error_history: Sequence[FailedAttempt] = ()
    errors_dropped: int = 0
    """Failures missing from the history, because there was no room for them."""
    created_at: datetime | None = None

    def parameters(self, namespace: str) -> tuple[object, ...]:
        """Return the parameters of the function `store`, sanitised."""
        headers = [[sanitise.text(name), sanitise.text(value)] for name, value in self.headers]
        history = [
            {
                "attempt": sanitise.count(item["attempt"]),
                "error": sanitise.text(item["error"]),
                "timestamp": sanitise.text(item["timestamp"]),
            }
            for item in self.error_history
        ]
        return (
            namespace,
            sanitise.tenant(self.app_id or "default"),
            sanitise.key(self.original_job_id),
            sanitise.key(self.type),
            sanitise.priority(self.priority),
            sanitise.entity(self.entity) if self.entity else None,
            None if self.batch_id is None else sanitise.key(self.batch_id),
            sanitise.body(self.payload),
            sanitise.json_text(self.payload) is not None,
            sanitise.document(headers, sanitise.MAX_BODY),
            None if self.headers_raw is None else sanitise.body(self.headers_raw),
            sanitise.key(self.error_reason),
            sanitise.document(history, sanitise.MAX_HISTORY),
            sanitise.count(self.attempts),
            None if self.created_at is None else sanitise.moment(self.created_at),
            sanitise.moment(self.dead_at),
            None if self.traceparent is None else sanitise.key(self.traceparent),
            sanitise.count(self.errors_dropped),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row of `job_dlq`, under the names of its columns.

    A replay has begun if `replayed_job_id` is set, and is finished if `replayed_at` is set too. `payload_json` is for
    reading: it is None where the body is not JSON that `jsonb` can hold. `payload` is the body, byte for byte. If an
    operator edited it, `edited_at` says when, and `original_payload` is the body as it was published. `error_history`
    has every failure but the `errors_dropped` for which the job's entry had no room.
    """

    id: UUID
    namespace: str
    app_id: str
    original_job_id: str
    type: str
    priority: str
    entity: str | None
    batch_id: str | None
    payload: bytes
    payload_json: Any
    headers: list[tuple[str, str]]
    headers_raw: bytes | None
    error_reason: str
    error_history: list[FailedAttempt]
    errors_dropped: int
    attempts: int
    created_at: datetime | None
    dead_at: datetime
    replayed_at: datetime | None
    replayed_job_id: str | None
    discarded_at: datetime | None
    traceparent: str | None
    original_payload: bytes | None
    edited_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> DeadLetter:
        """Read a row; columns of a newer schema are ignored.

        Raises:
            LetterUnreadable: Its headers or errors have another shape, which the table's constraints do not let in.
        """
        columns: dict[str, Any] = {field.name: row[field.name] for field in fields(cls)}
        columns["payload_json"] = sanitise.read_json(row["payload_json"])
        for name, read in (("headers", _header), ("error_history", _failure)):
            try:
                columns[name] = [read(item) for item in _list(sanitise.read_json(row[name]))]
            except (TypeError, ValueError, KeyError):
                raise LetterUnreadable(row["id"], name) from None
        return cls(**columns)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _header(item: Any) -> tuple[str, str]:
    name, value = _list(item)
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError
    return name, value


def _failure(item: Any) -> FailedAttempt:
    attempt, error, timestamp = item["attempt"], item["error"], item["timestamp"]
    if not (isinstance(attempt, int) and isinstance(error, str) and isinstance(timestamp, str)):
        raise TypeError
    return FailedAttempt(attempt=attempt, error=error, timestamp=timestamp)


class LetterHeading(NamedTuple):
    """A letter without its body, its headers and all errors but the last: one line of a list."""

    id: UUID
    app_id: str
    type: str
    error_reason: str
    last_error: str
    dead_at: datetime
    replayed_at: datetime | None
    replayed_job_id: str | None
    discarded_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> LetterHeading:
        """Read a row of the function `headings`."""
        return cls(**{name: row[name] for name in cls._fields})
