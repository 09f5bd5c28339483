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
