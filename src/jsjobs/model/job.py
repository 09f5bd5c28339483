"""The core types of a job: id, priority, status response, progress, and the transitions between statuses. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from jsjobs.model.errors import MAX_ERROR_BYTES, JobError, Reason, clipped
from jsjobs.model.retry import RetryState
from jsjobs.model.words import Word

M = TypeVar("M", bound=BaseModel)
DEFAULT_MAX_ATTEMPTS = 3
HISTORY_FIRST = 20
HISTORY_LAST = 80
"""A history keeps its first 20 and its last 80 items, and every failure between them: a job may snooze without end."""
MAX_ERRORS_BYTES = 64 * MAX_ERROR_BYTES
"""The most bytes of all error texts of a history together: 256 KiB. So an entry fits into one message, although the
texts may be twice as long in JSON. There is always room for the errors of the first 20 and last 80 items, of which at
most every second one is a failure."""
PriorityName = Literal["critical", "high", "normal", "low"]
StatusName = Literal["queued", "processing", "complete", "failed", "cancelled"]
DurationName = Literal["short", "long"]
"""The plain words, which are accepted in place of the members of the enumerations below."""


class JobId(str):
    """A job's id: a string that also knows whether it is the id of an earlier, identical submit, and of its batch."""

    __slots__ = ("batch_id", "duplicate")

    duplicate: bool
    """Whether the submit queued nothing because the same dedupe key was submitted before."""
    batch_id: str | None
    """The batch that the job belongs to, as in its status; for a duplicate, the batch of the first job. None: it
    belongs to none, or it is a duplicate of a job that can no longer be read."""

    def __new__(cls, value: str, *, duplicate: bool = False, batch_id: str | None = None) -> Self:
        """Create the id, with the outcome of its submit."""
        self = super().__new__(cls, value)
        self.duplicate = duplicate
        self.batch_id = batch_id
        return self


class ProgressUpdate(BaseModel):
    """The progress of a job."""

    model_config = ConfigDict(frozen=True)

    pct: float = Field(ge=0, le=100)
    """The percentage done, 0 to 100."""
    message: str | None = None
    timestamp: AwareDatetime


class Priority(Word):
    """The four priorities, highest first; each has a stream of its own."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


def checked_priority(priority: object) -> Priority:
    """Return the priority, given as itself or by its word.

    Raises:
        JobError: `Validation`, if it is none of the four.
    """
    try:
        return Priority(priority)  # type: ignore[arg-type]
    except ValueError as error:
        text = f"the priority must be one of {', '.join(Priority)}, not {priority!r}"
        raise JobError.from_validation(text) from error


class Status(Word):
    """The five statuses of a job; the last three are terminal."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Return whether a job in this status has ended for good."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({Status.COMPLETE, Status.FAILED, Status.CANCELLED})


class Duration(Word):
    """`short` jobs have a time limit below the server's `ack_wait`; `long` ones are kept alive for hours."""

    SHORT = "short"
    LONG = "long"


# Set the parts of a model without looking up their names each time; a frozen model's own `__setattr__` refuses.
_set_values, _set_given, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


class _Given(dict[type[BaseModel], set[str]]):
    """The names of all fields, by model. A model's objects share one set: models are frozen, and copies copy it."""

    def __missing__(self, kind: type[BaseModel]) -> set[str]:
        given = self[kind] = set(kind.model_fields)
        return given


_ALL_FIELDS = _Given()
_new = object.__new__


def built(kind: type[M], fields: dict[str, Any]) -> M:
    """Create a model from values known to be valid, without validating them.

    Each job needs several models, and validation would double their cost.

    Args:
        kind: The model.
        fields: All of its fields, in their order.
    """
    made = _new(kind)
    _set_values(made, fields)
    _set_given(made, _ALL_FIELDS[kind])
    _set_extra(made, None)
    _set_private(made, None)
    return made


class HistoryItem(BaseModel):
    """One event in the history of a job."""

    model_config = ConfigDict(frozen=True)

    status: Status
    timestamp: AwareDatetime
    attempt: int
    error: str | None = None


def history_item(status: Status, now: datetime, attempt: int, error: str | None = None) -> HistoryItem:
    """Create a history item from values known to be valid."""
    return built(HistoryItem, {"status": status, "timestamp": now, "attempt": attempt, "error": error})


class Carrier(BaseModel):
    """The message from which a given id (`at-…`, `replay-…`) runs; any other copy is dropped."""

    model_config = ConfigDict(frozen=True)

    stream: str
    sequence: int
    stored_at: AwareDatetime


class JobStatusResponse(BaseModel):
    """All that is known about one job: the value of its entry in the state bucket, history included."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    status: Status
    attempts: int = 0
    """Attempts that have begun, without those that ended in a graceful release."""
    result: Any = None
    history: tuple[HistoryItem, ...] = ()
    history_dropped: int = 0
    """Items left out between the first 20 and the last 80."""
    errors_dropped: int = 0
    """Failures among the items left out, because the other failures or the result left no room for them."""
    type: str = ""
    priority: Priority = Priority.NORMAL
    entity: str | None = None
    tenant: str | None = None
    batch_id: str | None = None
    created_at: AwareDatetime | None = None
    """When the server stored the job."""
    completed_at: AwareDatetime | None = None
    """When it ended, in whatever way."""
    last_error: str | None = None
    error_reason: Reason | None = None
    """Why a failed job is dead."""
    next_attempt_at: AwareDatetime | None = None
    snoozed_until: AwareDatetime | None = None
    """When the job comes back; set while it waits because its handler snoozed."""
    scheduled_for: AwareDatetime | None = None
    worker: str | None = None
    """The worker that runs it, or ran it last."""
    max_attempts: int = Field(default=DEFAULT_MAX_ATTEMPTS, ge=1)
    """The number its submit gave, else that of its handler's policy, known once a worker has begun it; 3 until then."""
    carrier: Carrier | None = None
    deliveries: int | None = None
    """How often the server had delivered its message when an attempt began, if more than once; in the parallel lane."""
    wake: str | None = None
    """The subject on which the server is asked to deliver its message now; set in the parallel lane while it waits for
    a retry, or because its handler snoozed."""
    waits_since: AwareDatetime | None = None
    """When the server stored that it waits for that, if the entry was written again since: its delay counts from
    then."""
    retry: RetryState | None = None

    def to_json(self, result: bytes | None = None) -> bytes:
        """Return the entry as it is stored.

        Args:
            result: The handler's result, which is already JSON and is not encoded a second time.
        """
        body: bytes = _write_json(self, exclude_none=True)
        return body if result is None else b'%b,"result":%b}' % (body[:-1], result)

    # -- transitions: each returns the next entry and leaves this one as it is ----------------------------------------

    def started(self, now: datetime, worker: str) -> JobStatusResponse:
        """Return the entry of a job whose next attempt begins."""
        attempt = self.attempts + 1
        return self._next(
            Status.PROCESSING, now, attempt, attempts=attempt, worker=worker, snoozed_until=None, wake=None
        )

    def completed(self, now: datetime) -> JobStatusResponse:
        """Return the entry of a job whose handler returned; the result is added where the entry is written."""
        return self._next(Status.COMPLETE, now, self.attempts, completed_at=now, next_attempt_at=None)

    def retried(
        self, now: datetime, error: str, *, due: datetime, retry: RetryState | None, wake: str | None = None
    ) -> JobStatusResponse:
        """Return the entry of a job whose attempt failed and will be retried: `queued`, with the error."""
        text = clipped(error)
        changes = {"last_error": text, "next_attempt_at": due, "retry": retry, "wake": wake}
        return self._next(Status.QUEUED, now, self.attempts, error=text, **changes)

    def released(self, now: datetime) -> JobStatusResponse:
        """Return the entry of a job that its worker released: `queued` without an error; the attempt does not count."""
        return self._next(Status.QUEUED, now, self.attempts, attempts=self.attempts - 1)

    def snoozed(self, now: datetime, due: datetime, wake: str | None = None) -> JobStatusResponse:
        """Return the entry of a job whose handler snoozed: `queued` without an error; the attempt does not count."""
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
            wake=wake,
        )

    def woken(self) -> JobStatusResponse:
        """Return the entry of a sleeping job that is to begin its next attempt now."""
        return self.model_copy(update={"next_attempt_at": None, "snoozed_until": None})

    def failed(self, now: datetime, reason: Reason, error: str) -> JobStatusResponse:
        """Return the entry of a job that is dead."""
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
            wake=None,
        )

    def cancelled(self, now: datetime) -> JobStatusResponse:
        """Return the entry of a job that was cancelled."""
        nothing = dict.fromkeys(("next_attempt_at", "snoozed_until", "wake"))
        return self._next(Status.CANCELLED, now, self.attempts, completed_at=now, **nothing)

    def without_failures(self) -> JobStatusResponse:
        """Return the entry with the failures of its history left out and counted, to make room for a result."""
        fields = dict(self.__dict__)
        history = tuple(item for item in self.history if item.error is None)
        dropped = len(self.history) - len(history)
        fields["history"], fields["history_dropped"] = history, self.history_dropped + dropped
        fields["errors_dropped"] = self.errors_dropped + dropped
        return built(JobStatusResponse, fields)

    def _next(
        self, status: Status, now: datetime, attempt: int, error: str | None = None, **changes: Any
    ) -> JobStatusResponse:
        fields = self.__dict__ | changes  # read directly: a model's attributes take longer
        if fields["status"] in TERMINAL_STATUSES:
            # A programming error, not a race: races are decided by the entry's revision.
            raise JobError(Reason.PROCESSING, f"job {self.job_id} has ended as {self.status}", job_id=self.job_id)
        history = (*fields["history"], history_item(status, now, attempt, error))
        if len(history) > HISTORY_FIRST + HISTORY_LAST:
            whole, history = history, _without_middle(history)
            fields["history_dropped"] += len(whole) - len(history)
            fields["errors_dropped"] += len(_failures(whole)) - len(_failures(history))
        fields["status"], fields["history"], fields["waits_since"] = status, history, None
        return built(JobStatusResponse, fields)


def _failures(items: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
    return tuple(item for item in items if item.error is not None)


def _without_middle(history: tuple[HistoryItem, ...]) -> tuple[HistoryItem, ...]:
    """Return the first 20 and last 80 items, and the failures between them: all, or the latest that have room."""
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
    """Create the first entry of a job from values known to be valid.

    Args:
        fields: The entry's fields. Those not given have their defaults; without a status the job is queued.
    """
    return built(JobStatusResponse, _NEW | fields)


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def random_token() -> str:
    """Return 64 random bits in hexadecimal, for ids and fences that must be nobody else's."""
    return secrets.token_hex(8)


def failure(status: JobStatusResponse) -> JobError:
    """Return the error that a wait for the result of a failed or cancelled job ends in."""
    if status.status is Status.CANCELLED:
        return JobError.from_already_cancelled(f"job {status.job_id} was cancelled", job_id=status.job_id)
    reason = status.error_reason or Reason.PROCESSING
    text = (status.last_error or "the job failed").removeprefix(f"{reason}: ")
    # A job whose attempts are spent died of its last error.
    cause = status.last_error if reason is Reason.MAX_RETRIES else None
    return JobError(reason, text, job_id=status.job_id, cause=cause)
