"""A progress update of a job."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class ProgressUpdate(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(frozen=True)

    pct: float = Field(ge=0, le=100)
    """Percent done, 0 to 100."""
    message: str | None = None
    timestamp: AwareDatetime
