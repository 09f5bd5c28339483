"""Loggers that never raise: a job is settled whatever an application's log handlers do, or a closed standard error."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

from jsjobs.error_text import in_bounds
from jsjobs.interrupts import is_ctrl_c

_CALLER = 3
"""Frames from the standard logger to whoever called this one: its line is the record's."""
_told: set[str] = set()
"""The kinds of errors that were told of."""


def get_logger(name: str) -> SafeLogger:
    """Return the logger of a part of jsjobs; its records go where those of `logging.getLogger(name)` go."""
    return SafeLogger(logging.getLogger(name))


class SafeLogger:
    """Logs as the standard logger does; what a handler, a filter or a formatter raises ends here.

    The first error of each kind is told on standard error, where that can be written.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, *args: object, **more: Any) -> None:
        """Log what only somebody who looks for a fault wants to know."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, message, args, more)

    def info(self, message: str, *args: object, **more: Any) -> None:
        """Log what is as it should be."""
        if self._logger.isEnabledFor(logging.INFO):
            self._log(logging.INFO, message, args, more)

    def warning(self, message: str, *args: object, **more: Any) -> None:
        """Log what somebody should look at."""
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
        """Log at a level."""
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
    """The exception as any handler may format it: no matter how much it says, how deep it is or what lies behind it."""
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    return None if error is None else in_bounds(error)
