"""What a job is: its names, its status response and the transitions between statuses. Pure, no I/O."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from jsjobs.model.clipping import MAX_ERROR_BYTES, clipped
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.retry import RetryState
from jsjobs.model.words import Word

M = TypeVar("M", bound=BaseModel)

DEFAULT_MAX_ATTEMPTS = 3
HISTORY_FIRST = 20
HISTORY_LAST = 80
"""A history keeps its first 20 and its last 80 items, and every failure between them: a job may snooze without end."""
MAX_ERRORS_BYTES = 64 * MAX_ERROR_BYTES
"""All error texts of a history are kept to 256 KiB: an entry fits into one message, twice as long as they are in JSON.
There is always room for those of the first 20 and last 80 items, of which at most every second one is a failure."""


PriorityName = Literal["critical", "high", "normal", "low"]
StatusName = Literal["queued", "processing", "complete", "failed", "cancelled"]
DurationName = Literal["short", "long"]
"""The words themselves, which do in the place of the members of these:"""


class Priority(Word):
    """The four priorities, each a stream of its own, highest first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Status(Word):
    """The five statuses of a job; the last three are its end."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this status has ended, for good."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({Status.COMPLETE, Status.FAILED, Status.CANCELLED})


class Duration(Word):
    """`short` jobs have a time limit below the server's `ack_wait`; `long` ones are kept alive for hours."""

    SHORT = "short"
    LONG = "long"


# What a model is made of, set without a look-up of the name each time; a frozen model's own `__setattr__` refuses.
_set_values, _set_given, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


class _Given(dict[type[BaseModel], set[str]]):
    """All fields of a model; one set for all its objects: models are frozen, and their copies copy it."""

    def __missing__(self, kind: type[BaseModel]) -> set[str]:
        given = self[kind] = set(kind.model_fields)
        return given


_ALL_FIELDS = _Given()
_new = object.__new__


def built(kind: type[M], fields: dict[str, Any]) -> M:
    """A model of values that are known to be right: several of them for each job, and validation costs as much again.

    Args:
        kind: Which model.
        fields: All of its fields, in their order.
    """
    made = _new(kind)
    _set_values(made, fields)
    _set_given(made, _ALL_FIELDS[kind])
    _set_extra(made, None)
    _set_private(made, None)
    return made


class HistoryItem(BaseModel):
    """One thing that happened to a job."""

    model_config = ConfigDict(frozen=True)

    status: Status
    timestamp: AwareDatetime
    attempt: int
    error: str | None = None


def history_item(status: Status, now: datetime, attempt: int, error: str | None = None) -> HistoryItem:
    """An item of values that are known to be right."""
    return built(HistoryItem, {"status": status, "timestamp": now, "attempt": attempt, "error": error})


class Carrier(BaseModel):
    """The message that a given id (`at-…`, `replay-…`) runs from; any other copy is dropped."""

    model_config = ConfigDict(frozen=True)

    stream: str
    sequence: int
    stored_at: AwareDatetime


class JobStatusResponse(BaseModel):
    """All that is known of one job: the value of its entry in the state bucket, history included."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    status: Status
    attempts: int = 0
    """Attempts begun, less those that ended in a graceful release."""
    result: Any = None
    history: tuple[HistoryItem, ...] = ()
    history_dropped: int = 0
    """Items left out between the first 20 and the last 80."""
    errors_dropped: int = 0
    """Failures among them: those for which there was no room, beside the others or beside the result."""
    type: str = ""
    priority: Priority = Priority.NORMAL
    entity: str | None = None
    tenant: str | None = None
    batch_id: str | None = None
    created_at: AwareDatetime | None = None
    """When the server stored the job."""
    completed_at: AwareDatetime | None = None
    """When it ended, however it ended."""
    last_error: str | None = None
    error_reason: Reason | None = None
    """Why a failed job is dead."""
    next_attempt_at: AwareDatetime | None = None
    snoozed_until: AwareDatetime | None = None
    """Of a job that waits because its handler snoozed."""
    scheduled_for: AwareDatetime | None = None
    worker: str | None = None
    """The worker that runs it, or ran it last."""
    max_attempts: int = Field(default=DEFAULT_MAX_ATTEMPTS, ge=1)
    """What its submit said, else what its handler's policy says, known once a worker has begun it; 3 until then."""
    carrier: Carrier | None = None
    retry: RetryState | None = None

    def to_json(self, result: bytes | None = None) -> bytes:
        """The entry as it is stored.

        Args:
            result: The handler's result, which is JSON already and is not encoded a second time.
        """
        body: bytes = _write_json(self, exclude_none=True)
        return body if result is None else b'%b,"result":%b}' % (body[:-1], result)

    # -- transitions: each gives the next entry and leaves this one as it is ------------------------------------------

    def started(self, now: datetime, worker: str) -> JobStatusResponse:
        """An attempt begins."""
        attempt = self.attempts + 1
        return self._next(Status.PROCESSING, now, attempt, attempts=attempt, worker=worker, snoozed_until=None)

    def completed(self, now: datetime) -> JobStatusResponse:
        """The handler returned; its result is joined to the entry where that is written."""
        return self._next(Status.COMPLETE, now, self.attempts, completed_at=now, next_attempt_at=None)

    def retried(self, now: datetime, error: str, *, due: datetime, retry: RetryState | None) -> JobStatusResponse:
        """The attempt failed and another will follow: `queued`, with the error."""
        text = clipped(error)
        return self._next(
            Status.QUEUED, now, self.attempts, error=text, last_error=text, next_attempt_at=due, retry=retry
        )

    def released(self, now: datetime) -> JobStatusResponse:
        """The worker gave the job back unharmed: `queued` without an error, and the attempt does not count."""
        return self._next(Status.QUEUED, now, self.attempts, attempts=self.attempts - 1)

    def snoozed(self, now: datetime, due: datetime) -> JobStatusResponse:
        """The handler asked to be called again later: `queued` without an error, and the attempt does not count."""
        retry = self.retry
        if retry is not None and retry.due is None:
            retry = retry.model_copy(update={"due": self.next_attempt_at})
        return self._next(
            Status.QUEUED,
            now,
            self.attempts,
            attempts=self.attempts - 1,
            next_attempt_at=due,
            snoozed_until=due,
            retry=retry,
        )

    def failed(self, now: datetime, reason: Reason, error: str) -> JobStatusResponse:
        """The job is dead."""
        text = clipped(error)
        return self._next(
            Status.FAILED,
            now,
            self.attempts,
            error=text,
            last_error=text,
            error_reason=reason,
            completed_at=now,
            next_attempt_at=None,
            snoozed_until=None,
        )

    def cancelled(self, now: datetime) -> JobStatusResponse:
        """The job was cancelled."""
        return self._next(
            Status.CANCELLED, now, self.attempts, completed_at=now, next_attempt_at=None, snoozed_until=None
        )

    def without_failures(self) -> JobStatusResponse:
        """The entry with the failures of its history left out and counted, where a result needs their room."""
        fields = dict(self.__dict__)
        history = tuple(item for item in self.history if item.error is None)
        dropped = len(self.history) - len(history)
        fields["history"], fields["history_dropped"] = history, self.history_dropped + dropped
        fields["errors_dropped"] = self.errors_dropped + dropped
        return built(JobStatusResponse, fields)

    def _next(
        self, status: Status, now: datetime, attempt: int, error: str | None = None, **changes: Any
    ) -> JobStatusResponse:
        fields = self.__dict__ | changes  # looked up there: a model's attributes take longer
        if fields["status"] in TERMINAL_STATUSES:
            # A programming error, not a race: races are decided by the entry's revision.
            raise JobError(Reason.PROCESSING, f"job {self.job_id} has ended as {self.status}", job_id=self.job_id)
        history = (*fields["history"], history_item(status, now, attempt, error))
        if len(history) > HISTORY_FIRST + HISTORY_LAST:
            whole, history = history, _without_middle(history)
            fields["history_dropped"] += len(whole) - len(history)
            fields["errors_dropped"] += len(_failures(whole)) - len(_failures(history))
        fields["status"], fields["history"] = status, history
        return built(JobStatusResponse, fields)


def _failures(items: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
    return tuple(item for item in items if item.error is not None)


def _without_middle(history: tuple[HistoryItem, ...]) -> tuple[HistoryItem, ...]:
    """The first 20 and last 80 items, and between them the failures: all, or the latest for which there is room."""
    first, last = history[:HISTORY_FIRST], history[-HISTORY_LAST:]
    middle = _failures(history[HISTORY_FIRST:-HISTORY_LAST])
    room = MAX_ERRORS_BYTES - sum(_size(item) for item in (*first, *last))
    kept = len(middle)
    for item in reversed(middle):
        room -= _size(item)
        if room < 0:
            break
        kept -= 1
    return (*first, *middle[kept:], *last)


def _size(item: HistoryItem) -> int:
    return 0 if item.error is None else len(item.error.encode())


_write_json = JobStatusResponse.__pydantic_serializer__.to_json

_NEW = {name: field.get_default() for name, field in JobStatusResponse.model_fields.items()} | {"status": Status.QUEUED}


def new_status(fields: dict[str, Any]) -> JobStatusResponse:
    """The first entry of a job, of values that are known to be right.

    Args:
        fields: Those that are not given have their defaults; without a status it is queued.
    """
    return built(JobStatusResponse, _NEW | fields)


def utc_now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def random_token() -> str:
    """64 random bits in hexadecimal, for ids and fences that must be nobody else's."""
    return secrets.token_hex(8)


def failure(status: JobStatusResponse) -> JobError:
    """The error that waiting for the result of a failed or cancelled job ends in."""
    if status.status is Status.CANCELLED:
        return JobError.from_already_cancelled(f"job {status.job_id} was cancelled", job_id=status.job_id)
    reason = status.error_reason or Reason.PROCESSING
    text = (status.last_error or "the job failed").removeprefix(f"{reason}: ")
    # Whose attempts are spent died of its last error.
    cause = status.last_error if reason is Reason.MAX_RETRIES else None
    return JobError(reason, text, job_id=status.job_id, cause=cause)
