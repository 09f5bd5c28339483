"""Make a test fail with the error of its handler."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from jsjobs.handlers.failure import HandlerFailed
from jsjobs.model.job import JobStatusResponse, failure
from jsjobs.testing.drain import Drained

_OURS = {"jsjobs", "asyncio", "concurrent"}


def raise_first(dead: Sequence[JobStatusResponse], drained: Drained) -> NoReturn:
    """Raise the exception that the first of these jobs ended in: the handler's own, where there is one."""
    __tracebackhide__ = True  # so that pytest shows the test's line, and next to it the handler's
    error = drained.causes.get(dead[0].job_id) or failure(dead[0])
    if isinstance(error, HandlerFailed):
        error.add_note(error.trace)
    for status in dead:
        also = "" if status is dead[0] else "also "
        error.add_note(
            f"{also}dead: job {status.job_id} ({status.type}), attempt {status.attempts} of {status.max_attempts}: "
            f"{status.last_error}"
        )
    raise error.with_traceback(_from_handler(error.__traceback__))


def _from_handler(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that lead from the worker to the handler."""
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        trace = trace.tb_next
    return trace
