"""The context of a job, which its handler gets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane


class _Sent:
    """An awaitable that is always done: a report is sent when it is made, from a thread as well as from a task."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_SENT = _Sent()


@dataclass(slots=True, eq=False)
class JobContext:
    """The running attempt of one job."""

    job_id: str
    type: str
    priority: Priority
    shard: int | None
    """The number of its shard; None in the parallel lane."""
    attempt: int
    """The number of the attempt, 1 for the first."""
    fence: int
    """The entry's revision. It only grows from attempt to attempt, so a handler can fence its own writes with it."""
    entity: str | None = None
    tenant_id: str | None = None
    request_id: str | None = None
    batch_id: str | None = None
    cancelled: bool = False
    """Whether the handler should end: its time is up, its job was cancelled, or the worker is stopping or lost it. A
    plain function must check this."""
    reporter: Callable[[float, str | None], None] = field(default=lambda _pct, _message: None, repr=False)
    """Takes the reports that `report_progress` has checked. The code that runs the handler sets it; the handler calls
    `report_progress`."""

    @property
    def lane(self) -> Lane:
        """Return the lane it runs in: `ordered` if it was submitted with an entity, else `parallel`."""
        return Lane.PARALLEL if self.shard is None else Lane.ORDERED

    def report_progress(self, pct: float, message: str | None = None) -> _Sent:
        """Publish the job's progress; you may await it, but need not. Reports in quick succession are joined.

        Args:
            pct: Percent done, 0 to 100.
            message: What the job is doing.

        Raises:
            ValueError: If `pct` is not between 0 and 100.
            TypeError: If `pct` is not a number, or the message is not text.
        """
        if type(pct) is not float:
            pct = _number(pct)
        if message is not None and not isinstance(message, str):
            raise TypeError(f"the message of a progress update must be a string, not {type(message).__name__}")
        if not 0 <= pct <= 100:  # noqa: PLR2004 - percent
            raise ValueError(f"progress must be 0 to 100 percent, not {pct}")
        self.reporter(pct, message)
        return _SENT


def _number(value: Any) -> float:
    # A text that reads as a number is a mistake all the same.
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        raise TypeError(f"progress must be a number from 0 to 100, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("progress must be 0 to 100 percent, not a number with hundreds of digits") from None
