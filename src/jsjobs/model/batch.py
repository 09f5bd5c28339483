"""A batch: the jobs that were submitted as one list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from jsjobs.model.job import Status, StatusName

_PLACE = re.compile(r"(.+)-([1-9][0-9]{0,15})")
MAX_IDS = 1_000_000
"""The most jobs of a batch whose ids are kept."""
_RUN = r"^[a-z]+-([A-Za-z0-9_-]{1,100}|([A-Za-z0-9_-]{1,100}-)?[1-9][0-9]{0,15}:[1-9][0-9]{0,8})$"
"""A single id, or a run: an id that ends in a number, and how many ids there are from it on."""


class BatchRuns(BaseModel):
    """The ids of a batch, in the order of its list: `normal-1795318823879006:500` is that id and the 499 after it."""

    # The pattern's compilation takes longer than importing this module; few processes ever read a batch.
    model_config = ConfigDict(defer_build=True, frozen=True)

    runs: tuple[Annotated[str, StringConstraints(pattern=_RUN)], ...]


class BatchRecord(BatchRuns):
    """The record of a batch, kept from its submit on."""

    batch_id: str
    created_at: AwareDatetime
    total: int = Field(ge=0, le=MAX_IDS)
    parts: int = Field(default=1, ge=1, le=1_000)
    """Messages that hold its ids, this one included."""
    more: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    """What the other messages are named after; None: the batch. It is new each time another list is added."""


if TYPE_CHECKING:

    class StatusCounts(dict[Status, int]):
        """Job counts by status; the status may be given as its word alone."""

        def __getitem__(self, status: Status | StatusName, /) -> int: ...
else:
    StatusCounts = dict[Status, int]  # a status is its word


class BatchStatus(BaseModel):
    """The progress of a batch."""

    model_config = ConfigDict(frozen=True)

    batch_id: str
    created_at: datetime
    """When its jobs were queued."""
    total: int
    counts: StatusCounts
    """Job counts by status; all five statuses are present."""
    expired: int
    """Jobs that ended so long ago that it is no longer known how."""
    ids: tuple[str, ...]
    """In the order of the list."""

    @property
    def ended(self) -> int:
        """Return the number of jobs that have ended, in whatever way."""
        return self.expired + sum(count for status, count in self.counts.items() if status.is_terminal)


def runs_of(ids: Iterable[str]) -> list[str]:
    """Return the ids in their order, with consecutive ones joined into runs."""
    runs: list[str] = []
    begin, count, prefix, following = "", 0, "", 0
    for job_id in ids:
        if count and following and job_id == f"{prefix}-{following}":
            following, count = following + 1, count + 1
            continue
        _close(runs, begin, count)
        place = _PLACE.fullmatch(job_id)
        begin, count = job_id, 1
        prefix, following = ("", 0) if place is None else (place[1], int(place[2]) + 1)
    _close(runs, begin, count)
    return runs


def _close(runs: list[str], begin: str, count: int) -> None:
    if count:
        runs.append(begin if count == 1 else f"{begin}:{count}")


def ids_of(runs: Sequence[str]) -> Iterator[str]:
    """Return the ids that the runs stand for."""
    for run in runs:
        begin, _, count = run.partition(":")
        yield begin
        prefix, _, sequence = begin.rpartition("-")
        for offset in range(1, int(count or 1)):
            yield f"{prefix}-{int(sequence) + offset}"
