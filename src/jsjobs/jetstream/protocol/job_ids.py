"""Ids of jobs: those that follow from a place in a queue, and those given to a job whose place is not known yet."""

from __future__ import annotations

import re
from typing import Literal

from jsjobs.model.checks import checked_text
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue

_PLAIN_ID = re.compile(r"(critical|high|normal|low)-(parallel-)?([1-9][0-9]{0,15})")
_GIVEN_ID = re.compile(r"(at|replay)-[A-Za-z0-9_-]{1,100}")
_DEBOUNCED_ID = re.compile(r"at-([0-9a-f]{32})-[0-9a-f]{16}")


def plain_id(queue: Queue, sequence: int | Literal[""]) -> str:
    """Return the id of a job by its place in a queue: the receipt that every publisher gets."""
    return f"{queue.name}-{sequence}"


def parse_plain_id(job_id: str) -> tuple[Queue, int] | None:
    """Return queue and stream sequence of a plain id, or None for any other text."""
    match = _PLAIN_ID.fullmatch(job_id)
    if match is None:
        return None
    return Queue(Priority(match[1]), Lane.PARALLEL if match[2] else Lane.ORDERED), int(match[3])


def is_given_id(job_id: str) -> bool:
    """Return whether an id is one that its message carries: that of a scheduled or replayed job."""
    return _GIVEN_ID.fullmatch(job_id) is not None


def is_replay_id(job_id: str) -> bool:
    """Return whether a given id belongs to a replay."""
    return job_id.startswith("replay-")


def debounced_id(digest: str, token: str) -> str:
    """Return the id of a job that further submits of the same key replace while it waits.

    Args:
        digest: The key's digest, 32 hexadecimal digits.
        token: 16 more hexadecimal digits, unique to this job.
    """
    return f"at-{digest}-{token}"


def checked_id(job_id: str) -> str:
    """Return the id itself, if it has the form of one.

    Raises:
        JobError: `NotFound`, if no job can have such an id; `Validation`, if it is not a text at all.
    """
    checked_text("a job id", job_id)
    if not (_PLAIN_ID.fullmatch(job_id) or _GIVEN_ID.fullmatch(job_id)):
        raise JobError.from_not_found(
            f"{job_id[:120]!r} is not a job id: ids look like critical-1795318823879006, at-… or replay-…",
            job_id=job_id,
        )
    return job_id


def digest_of(job_id: str) -> str | None:
    """Return the digest of the key in a debounced job's id, or None for any other id."""
    match = _DEBOUNCED_ID.fullmatch(job_id)
    return match[1] if match else None
