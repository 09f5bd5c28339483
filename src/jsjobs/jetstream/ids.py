"""Ids of jobs: those that a place in a queue gives, and those that are given to a job whose place is not known yet."""

from __future__ import annotations

import re
from typing import Literal

from jsjobs.model.checks import checked_text
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

_PLAIN_ID = re.compile(r"(critical|high|normal|low)-([1-9][0-9]{0,15})")
_GIVEN_ID = re.compile(r"(at|replay)-[A-Za-z0-9_-]{1,100}")
_DEBOUNCED_ID = re.compile(r"at-([0-9a-f]{32})-[0-9a-f]{16}")


def plain_id(priority: Priority, sequence: int | Literal[""]) -> str:
    """The id of a job by its place: the receipt every publisher gets."""
    return f"{priority}-{sequence}"


def parse_plain_id(job_id: str) -> tuple[Priority, int] | None:
    """Priority and stream sequence of a plain id, or None for any other text."""
    match = _PLAIN_ID.fullmatch(job_id)
    return (Priority(match[1]), int(match[2])) if match else None


def is_given_id(job_id: str) -> bool:
    """Whether this is an id that its message carries: a scheduled or replayed job's."""
    return _GIVEN_ID.fullmatch(job_id) is not None


def is_replay_id(job_id: str) -> bool:
    """Whether a given id is a replay's."""
    return job_id.startswith("replay-")


def debounced_id(digest: str, token: str) -> str:
    """The id of a job that further submits of the same key replace while it waits.

    Args:
        digest: Of the key, 32 hexadecimal digits.
        token: 16 more, nobody else's.
    """
    return f"at-{digest}-{token}"


def checked_id(job_id: str) -> str:
    """The id itself, if it has the form of one.

    Raises:
        JobError: `NotFound`: no job can have such an id; `Validation`, if it is no text at all.
    """
    checked_text("a job id", job_id)
    if not (_PLAIN_ID.fullmatch(job_id) or _GIVEN_ID.fullmatch(job_id)):
        raise JobError.from_not_found(
            f"{job_id[:120]!r} is no job id: ids look like critical-1795318823879006, at-… or replay-…", job_id=job_id
        )
    return job_id


def digest_of(job_id: str) -> str | None:
    """The digest of the key of a debounced job; None for any other id."""
    match = _DEBOUNCED_ID.fullmatch(job_id)
    return match[1] if match else None
