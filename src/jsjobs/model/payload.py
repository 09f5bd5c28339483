"""What a submit asks for: the job's type, its payload and its options."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jsjobs.model.context import MAX_NAME
from jsjobs.model.due import At, Delay, due_at
from jsjobs.model.expiry import Expired, Expires
from jsjobs.model.job import Duration, Priority, utc_now
from jsjobs.model.retry import ATTEMPTS_LIMIT


def _printable(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable, without space at its ends")
    return value


BATCH_ID = "[A-Za-z0-9_-]{1,64}"
"""What a batch can be called: its record is a key of the state bucket."""
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]


class Written(NamedTuple):
    """A payload that came as JSON, one job's also where it is a list: what was read of it can be read again."""

    raw: bytes


class JobPayload(BaseModel):
    """One job to be submitted, with options of its own: an item of `submit_payloads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """Words of A-Z, a-z, 0-9, `_` and `-`, with dots between them."""
    payload: Any = None
    """Anything JSON can hold."""
    priority: Priority = Priority.NORMAL
    entity: Name | None = None
    """Jobs of one entity at one priority run one at a time, in the order submitted."""
    dedupe_key: Name | None = None
    """A second job of the same tenant, type, key and priority is not queued: its submit gets the first one's id.

    Keys of delayed jobs are apart, and hold over all priorities.
    """
    max_attempts: Annotated[int, Field(ge=1, le=ATTEMPTS_LIMIT)] | None = None
    """Attempts before it is dead, 1 to 1,000; None: one more than its handler's own policy has retries, else 3."""
    duration: Duration | None = None
    """`long` for a handler that may outlive `ack_wait`; None: short, unless its `timeout` needs more."""
    timeout: Annotated[float, Field(ge=0.001, le=1e8, allow_inf_nan=False)] | None = None
    """Seconds that one attempt may take, from a millisecond to three years; more than a short job has makes it long."""
    delay: Delay = None
    """Seconds, or a timedelta, until it is due; it has an id of the form `at-…`, valid from its submit on."""
    at: At = None
    """When it is due, an aware datetime, in the place of a delay; what has passed is due at once."""
    debounce_key: Name | None = None
    """A job of the same tenant, type and key, of any priority, that is not due yet is replaced by this one, and keeps
    its id."""
    expires: Expires = None
    """A job that has not started by then never does: seconds from when it is due, a timedelta, or an aware datetime."""
    expired: Expired = "dead_letter"
    """What becomes of it then; `drop`: it is failed, and leaves no letter."""
    tenant: Name | None = None
    """Whose job it is; None: as the request context says."""
    batch_id: Annotated[str, Field(pattern=f"^{BATCH_ID}$")] | None = None
    """The batch that it belongs to, 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. A list is one batch: those of its jobs that
    name one name the same, which all of them get. None: one is made up for a list, and a single job belongs to none."""

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
        """Whether the server's time is needed to say when it is due, or expires."""
        return self.delay is not None or self.at is not None or self.expires is not None

    def due(self, now: datetime) -> datetime | None:
        """When it is due, if it is submitted now; None: at once."""
        return due_at(self.delay, self.at, now)
