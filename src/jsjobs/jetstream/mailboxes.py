"""How many types of jobs a queue holds, and how full the fullest mailbox is: one shard's jobs of one type."""

from __future__ import annotations

from typing import NamedTuple

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import Priority

_BEGIN = 5
"""Tokens before the type: `jobs.work.<priority>.<generation>.<shard>`."""


class Mailboxes(NamedTuple):
    """Of one queue."""

    types: int
    examples: tuple[str, ...]
    """A few of the types, in their order."""
    fullest: int
    """Jobs in the fullest mailbox."""
    fullest_subject: str


async def look_at_mailboxes(connection: Connection, names: Names, priority: Priority, *, examples: int) -> Mailboxes:
    """What a queue holds, in one request: of the first hundred thousand mailboxes.

    Raises:
        JobError: If the server cannot be asked.
    """
    info = await find(connection, f"STREAM.INFO.{names.stream(priority)}", {"subjects_filter": ">"})
    subjects: dict[str, int] = (info or {}).get("state", {}).get("subjects") or {}
    types = {subject.split(".", _BEGIN)[-1] for subject in subjects}
    fullest = max(subjects, key=lambda subject: subjects[subject], default="")
    return Mailboxes(len(types), tuple(sorted(types)[:examples]), subjects.get(fullest, 0), fullest)
