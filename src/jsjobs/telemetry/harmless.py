"""Calls into OpenTelemetry that may fail without ending anything.

Behind its interface is whatever an application has installed: samplers, processors, exporters, readers. No job waits
for them, or fails because of them.
"""

from __future__ import annotations

from types import TracebackType

from jsjobs.interrupts import is_ctrl_c
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.telemetry")


class Harmless:
    """Swallow and log whatever a block raises; not for blocks that await or yield.

    Args:
        unrecorded: What is not recorded in that case, for the log.
    """

    __slots__ = ("_unrecorded",)

    def __init__(self, unrecorded: str) -> None:
        self._unrecorded = unrecorded

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Continue after the block, unless Ctrl-C ended it."""
        if error is None or is_ctrl_c(error):
            return False
        logger.error("%s is not recorded", self._unrecorded, exc_info=error)
        return True
