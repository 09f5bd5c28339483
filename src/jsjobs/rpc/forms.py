"""Requests to the micro service and its answers, as JSON objects; their schemas are shown to whoever discovers it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jsjobs.jetstream.micro import LONGEST
from jsjobs.model.due import At, Delay
from jsjobs.model.job import Priority
from jsjobs.model.payload import JobPayload, Name

Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]


class SubmitRequest(JobPayload):
    """One job; its payload is one job's also where it is a list."""

    request_id: Name | None = None
    """Carried along to the handler, and to what that submits."""


class JobRequest(BaseModel):
    """Which job is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str


class WaitRequest(JobRequest):
    """Which job is meant, and how long to wait."""

    timeout: Seconds = 30
    """Seconds."""


class RescheduleRequest(JobRequest):
    """Which delayed job is meant, and when it is to begin: exactly one of the three."""

    delay: Delay = None
    """Seconds from now."""
    at: At = None
    """A time."""
    now: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum((self.delay is not None, self.at is not None, self.now)) != 1:
            raise ValueError("give one of delay, at and now")
        return self


class ReplayRequest(BaseModel):
    """Which dead job is to be put back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dlq_id: str
    """The letter's id, the begin of it, or the dead job's id."""
    priority: Priority | None = None
    """Another priority than its own."""
    force: bool = False
    """Replay it though it was replayed or discarded before."""


class SubmitResponse(BaseModel):
    """The receipt of a job."""

    job_id: str
    duplicate: bool
    """Whether nothing was queued, since the same key was submitted before; the id is that job's."""
    batch_id: str | None = None
    """The batch that was asked for; of a duplicate the one that the first job belongs to."""


class ReplayResponse(BaseModel):
    """The receipt of a job that was put back."""

    job_id: str


class ResultResponse(BaseModel):
    """What a job's handler returned."""

    job_id: str
    result: Any
