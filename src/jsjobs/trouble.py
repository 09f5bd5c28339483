"""A trouble that lasts: said when it begins, once a minute while it stays, and once when it is over."""

from __future__ import annotations

import time

from jsjobs.safe_log import SafeLogger

_AGAIN_AFTER = 60.0


class Trouble:
    """What keeps something from working at present, for a log and for who asks.

    Args:
        logger: Where it is said.
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
        """It lasts, for this reason: a warning, unless there was one in the last minute."""
        self.why = why
        now = time.monotonic()
        if now - self._told_at >= _AGAIN_AFTER:
            self._told_at, self._is_told = now, True
            self._logger.warning(self._begins, why)

    def over(self) -> None:
        """It is over: told once, where the trouble was."""
        self.why = ""
        if self._is_told:
            self._is_told = False
            self._logger.info(self._ends)
