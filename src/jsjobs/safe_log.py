"""Loggers that never raise: a failing log handler cannot keep a job from being settled."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

from jsjobs.error_text import in_bounds
from jsjobs.interrupts import is_ctrl_c

_CALLER = 3
"""Frames between the standard logger and the caller of this one, whose line the record names."""
_told: set[str] = set()
"""The kinds of errors that were reported."""


def get_logger(name: str) -> SafeLogger:
    """Return the logger of a part of jsjobs; its records go where those of `logging.getLogger(name)` go."""
    return SafeLogger(logging.getLogger(name))


class SafeLogger:
    """Log as the standard logger does, and swallow what a handler, a filter or a formatter raises.

    The first error of each kind is reported on standard error, if that can be written.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, *args: object, **more: Any) -> None:
        """Log what helps only in a search for a fault."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, message, args, more)

    def info(self, message: str, *args: object, **more: Any) -> None:
        """Log an event of normal operation."""
        if self._logger.isEnabledFor(logging.INFO):
            self._log(logging.INFO, message, args, more)

    def warning(self, message: str, *args: object, **more: Any) -> None:
        """Log what an operator should look at."""
        if self._logger.isEnabledFor(logging.WARNING):
            self._log(logging.WARNING, message, args, more)

    def error(self, message: str, *args: object, **more: Any) -> None:
        """Log what failed."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._log(logging.ERROR, message, args, more)

    def exception(self, message: str, *args: object, **more: Any) -> None:
        """Log what failed, with the traceback of the exception that is being handled."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._log(logging.ERROR, message, args, {"exc_info": True, **more})

    def log(self, level: int, message: str, *args: object, **more: Any) -> None:
        """Log at the given level."""
        if self._logger.isEnabledFor(level):
            self._log(level, message, args, more)

    def _log(self, level: int, message: str, args: tuple[object, ...], more: dict[str, Any]) -> None:
        try:
            if more.get("exc_info"):
                more["exc_info"] = _short(more["exc_info"])
            self._logger.log(level, message, *args, stacklevel=_CALLER, **more)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            kind = type(error).__name__
            if kind not in _told:
                _told.add(kind)
                with suppress(Exception):
                    print(f"jsjobs: a log handler raised {kind}: lines are lost", file=sys.stderr)  # noqa: T201


def _short(exc_info: object) -> BaseException | None:
    """Return the exception so that any handler can format it, however long or deep it is or whatever caused it."""
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    return None if error is None else in_bounds(error)
