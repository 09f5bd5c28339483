"""The request of a submit: the job's type, its payload and its options."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jsjobs.model.context import MAX_NAME
from jsjobs.model.due import At, Delay, Expired, Expires, due_at
from jsjobs.model.job import Duration, Priority, utc_now
from jsjobs.model.retry import ATTEMPTS_LIMIT


def _printable(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable, without space at its ends")
    return value


BATCH_ID = "[A-Za-z0-9_-]{1,64}"
"""The form of a batch's id: its record is a key of the state bucket."""
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]


class Written(NamedTuple):
    """A payload that came as JSON and was read once, so it can be read again; a list is one job's payload too."""

    raw: bytes


class JobPayload(BaseModel):
    """One job to be submitted, with options of its own: an item of `submit_payloads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """The job type: words of A-Z, a-z, 0-9, `_` and `-`, separated by dots."""
    payload: Any = None
    """Anything JSON can hold."""
    priority: Priority = Priority.NORMAL
    entity: Name | None = None
    """The job's entity. Jobs of one entity at one priority run one at a time, in the order they were submitted."""
    dedupe_key: Name | None = None
    """A second job of the same tenant, type, key and priority is not queued: its submit gets the first one's id.

    Delayed jobs have keys of their own, which hold across all priorities.
    """
    max_attempts: Annotated[int, Field(ge=1, le=ATTEMPTS_LIMIT)] | None = None
    """Attempts before the job is dead, 1 to 1,000. None: one more than the retries of its handler's policy, else 3."""
    duration: Duration | None = None
    """`long` for a handler that may outlive `ack_wait`; None: short, unless its `timeout` needs more."""
    timeout: Annotated[float, Field(ge=0.001, le=1e8, allow_inf_nan=False)] | None = None
    """Seconds that one attempt may take, a millisecond to three years; more than a short job may take makes it long."""
    delay: Delay = None
    """Seconds, or a timedelta, until the job is due. Its id has the form `at-…` and is valid from its submit on."""
    at: At = None
    """When the job is due, as an aware datetime; an alternative to `delay`. A moment in the past is due at once."""
    debounce_key: Name | None = None
    """The job replaces one of the same tenant, type and key, of any priority, that is not due yet, and takes over its
    id."""
    expires: Expires = None
    """The job never starts after this: seconds from when it is due, a timedelta, or an aware datetime."""
    expired: Expired = "dead_letter"
    """What happens to an expired job; `drop`: it is failed, and leaves no dead letter."""
    tenant: Name | None = None
    """The tenant that owns the job; None: the tenant of the request context."""
    batch_id: Annotated[str, Field(pattern=f"^{BATCH_ID}$")] | None = None
    """The batch that the job belongs to, 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. A list is one batch: all of its jobs
    that name a batch must name the same one, and all jobs get it. None: a list gets a generated batch id, and a single
    job belongs to no batch."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        due_at(self.delay, self.at, utc_now())
        if self.debounce_key is not None and self.delay is None and self.at is None:
            raise ValueError("debounce_key needs a delay, or at: it replaces a job that is not due yet")
        if self.debounce_key is not None and self.dedupe_key is not None:
            raise ValueError("give dedupe_key, which keeps the first job, or debounce_key, which keeps the last")
        return self

    @property
    def has_times(self) -> bool:
        """Return whether the server's time is needed to tell when the job is due or expires."""
        return self.delay is not None or self.at is not None or self.expires is not None

    def due(self, now: datetime) -> datetime | None:
        """Return when the job is due if it is submitted now; None: at once."""
        return due_at(self.delay, self.at, now)
