"""One thing that was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much it matters."""

    OK = "ok"
    """As it should be."""
    NOTE = "note"
    """Worth knowing; nothing is wrong."""
    WARNING = "warning"
    """Jobs run, and something needs a look before they do not."""
    PROBLEM = "problem"
    """Jobs do not run, are not kept as they should be, or soon will not be."""


_NEAR, _FULL = 0.8, 0.95


def how_full(used: int, most: int) -> Severity | None:
    """How much it matters that so much of a limit is taken; None where it is far, or where there is no limit."""
    if most <= 0 or used < _NEAR * most:
        return None
    return Severity.PROBLEM if used >= _FULL * most else Severity.WARNING


@dataclass(frozen=True, slots=True)
class Finding:
    """What, where, how bad, and what to do."""

    check: str
    """Name of the check that found it, for programs."""
    severity: Severity
    what: str
    where: str
    """The server, stream, shard, setting or table."""
    remedy: str = ""
    """A command or a sentence; empty where there is nothing to do."""
