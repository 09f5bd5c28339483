"""Describe a handler's exception as text of bounded length, whatever it is."""

from __future__ import annotations

from jsjobs.error_text import text_of
from jsjobs.model.checks import shortened
from jsjobs.model.errors import JobError, clipped

MOST_NAME = 200
"""Characters of an exception type's name that are kept."""


class HandlerFailed(Exception):  # noqa: N818 - reads as what happened
    """A handler in a process raised an exception, which itself stayed in that process."""

    def __init__(self, text: str, error_type: str, trace: str) -> None:
        super().__init__(text)
        self.text = text
        self.error_type = error_type
        """The exception's type."""
        self.trace = trace
        """The traceback in the process."""


def describe(error: BaseException) -> str:
    """Describe an exception in at most 4 KiB of text, even one whose own text cannot be read."""
    text = text_of(error)
    if isinstance(error, JobError | HandlerFailed):
        return clipped(text)
    name = shortened(type(error).__name__, MOST_NAME)
    return clipped(f"{name}: {text}" if text else name)
