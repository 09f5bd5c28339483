"""A job on its way to the server."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One job as it is published."""

    subject: bytes
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
