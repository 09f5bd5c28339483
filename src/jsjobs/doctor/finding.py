"""A finding, and its severity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    """Everything is as it should be."""
    NOTE = "note"
    """Worth knowing; nothing is wrong."""
    WARNING = "warning"
    """Jobs run, but something needs attention before they stop running."""
    PROBLEM = "problem"
    """Jobs do not run, or are not kept as they should be, or soon will not be."""


_NEAR, _FULL = 0.8, 0.95


def how_full(used: int, most: int) -> Severity | None:
    """Return how severe the use of a limit is; None where the limit is far, or there is none."""
    if most <= 0 or used < _NEAR * most:
        return None
    return Severity.PROBLEM if used >= _FULL * most else Severity.WARNING


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found: what, where, how severe, and what to do about it."""

    check: str
    """The name of the check that found it, for programs."""
    severity: Severity
    what: str
    where: str
    """The server, stream, shard, setting or table."""
    remedy: str = ""
    """A command or a sentence; empty where there is nothing to do."""
