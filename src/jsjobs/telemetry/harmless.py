"""Calls into OpenTelemetry that may fail, and end nothing.

Behind its interface stands what an application has installed: samplers, processors, exporters, readers. No job waits
for what they do, or fails because of it.
"""

from __future__ import annotations

from types import TracebackType

from jsjobs.interrupts import is_ctrl_c
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.telemetry")


class Harmless:
    """Swallows and logs whatever a block raises; not for blocks that wait or yield.

    Args:
        unrecorded: What is not recorded then.
    """

    __slots__ = ("_unrecorded",)

    def __init__(self, unrecorded: str) -> None:
        self._unrecorded = unrecorded

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Go on behind the block, unless Ctrl-C ended it."""
        if error is None or is_ctrl_c(error):
            return False
        logger.error("%s is not recorded", self._unrecorded, exc_info=error)
        return True
