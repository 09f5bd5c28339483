"""Report a lasting problem when it begins, once a minute while it lasts, and when it is over."""

from __future__ import annotations

import time

from jsjobs.safe_log import SafeLogger

_AGAIN_AFTER = 60.0


class Trouble:
    """The current reason why something does not work, for the log and for whoever asks.

    Args:
        logger: Logs the problem.
        begins: The text while it lasts, with a `%s` for the reason.
        ends: The text when it is over.
    """

    def __init__(self, logger: SafeLogger, begins: str, ends: str) -> None:
        self._logger = logger
        self._begins = begins
        self._ends = ends
        self._told_at = float("-inf")
        self._is_told = False
        self.why = ""
        """The reason; empty while there is none. Any thread may read it."""

    def say(self, why: str) -> None:
        """Record that the problem lasts, for this reason; log a warning unless there was one in the last minute."""
        self.why = why
        now = time.monotonic()
        if now - self._told_at >= _AGAIN_AFTER:
            self._told_at, self._is_told = now, True
            self._logger.warning(self._begins, why)

    def over(self) -> None:
        """Record that the problem is over, and log that once if the problem was logged."""
        self.why = ""
        if self._is_told:
            self._is_told = False
            self._logger.info(self._ends)
