"""The micro service's requests and answers, as JSON objects; whoever discovers the service sees their schemas."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jsjobs.jetstream.micro.service import LONGEST
from jsjobs.model.due import At, Delay
from jsjobs.model.job import Priority
from jsjobs.model.payload import JobPayload, Name

Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]


class SubmitRequest(JobPayload):
    """A job to submit; it is one job also where its payload is a list."""

    request_id: Name | None = None
    """The request id that is passed on to the handler, and to the jobs that the handler submits."""


class JobRequest(BaseModel):
    """A request about one job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str


class WaitRequest(JobRequest):
    """A request about one job that waits."""

    timeout: Seconds = 30
    """Seconds to wait."""


class RescheduleRequest(JobRequest):
    """A delayed job, and when it is to begin: exactly one of `delay`, `at` and `now`."""

    delay: Delay = None
    """Seconds from now."""
    at: At = None
    """The time."""
    now: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum((self.delay is not None, self.at is not None, self.now)) != 1:
            raise ValueError("give one of delay, at and now")
        return self


class ReplayRequest(BaseModel):
    """A dead job to put back into its queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dlq_id: str
    """The letter's id, the beginning of it, or the dead job's id."""
    priority: Priority | None = None
    """A priority other than the job's own."""
    force: bool = False
    """Whether to replay it although it was replayed or discarded before."""


class SubmitResponse(BaseModel):
    """The receipt of a submitted job."""

    job_id: str
    duplicate: bool
    """Whether nothing was queued because the same key was submitted before; the id is that of the first job."""
    batch_id: str | None = None
    """The batch that was asked for; for a duplicate, the batch of the first job."""


class ReplayResponse(BaseModel):
    """The receipt of a job that was put back into its queue."""

    job_id: str


class ResultResponse(BaseModel):
    """The result that a job's handler returned."""

    job_id: str
    result: Any
