"""A batch: the jobs that one list was submitted as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from jsjobs.model.job import Status, StatusName

_PLACE = re.compile(r"(.+)-([1-9][0-9]{0,15})")
MAX_IDS = 1_000_000
"""Jobs of a batch whose ids are kept, at most."""
_RUN = r"^[a-z]+-([A-Za-z0-9_-]{1,100}|([A-Za-z0-9_-]{1,100}-)?[1-9][0-9]{0,15}:[1-9][0-9]{0,8})$"
"""An id, or one that ends in a number and how many there are from it on."""


class BatchRuns(BaseModel):
    """The ids of a batch, in the order of its list: `normal-1795318823879006:500` is that one and the 499 after it."""

    # The pattern's compilation takes longer than importing this module; few processes ever read a batch.
    model_config = ConfigDict(defer_build=True, frozen=True)

    runs: tuple[Annotated[str, StringConstraints(pattern=_RUN)], ...]


class BatchRecord(BatchRuns):
    """What is kept of a batch, from its submit on."""

    batch_id: str
    created_at: AwareDatetime
    total: int = Field(ge=0, le=MAX_IDS)
    parts: int = Field(default=1, ge=1, le=1_000)
    """Messages that hold its ids, this one included."""
    more: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    """What the others are named after; None: the batch. One that several lists were added to has new ones each time."""


if TYPE_CHECKING:

    class StatusCounts(dict[Status, int]):
        """Jobs by status, which may be named by the word alone."""

        def __getitem__(self, status: Status | StatusName, /) -> int: ...
else:
    StatusCounts = dict[Status, int]  # a status is its word


class BatchStatus(BaseModel):
    """How far a batch is."""

    model_config = ConfigDict(frozen=True)

    batch_id: str
    created_at: datetime
    """When its jobs were queued."""
    total: int
    counts: StatusCounts
    """Jobs by status; all five are there."""
    expired: int
    """Jobs that ended so long ago that how is no longer known."""
    ids: tuple[str, ...]
    """In the order of the list."""

    @property
    def ended(self) -> int:
        """Jobs that have ended, however they did."""
        return self.expired + sum(count for status, count in self.counts.items() if status.is_terminal)


def runs_of(ids: Iterable[str]) -> list[str]:
    """The ids with neighbours put together, in their order."""
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
    """The ids that the runs stand for."""
    for run in runs:
        begin, _, count = run.partition(":")
        yield begin
        prefix, _, sequence = begin.rpartition("-")
        for offset in range(1, int(count or 1)):
            yield f"{prefix}-{int(sequence) + offset}"
