"""A schedule as stored on its subject: the job it fires, when, and to which subject."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from jsjobs.jetstream.api.messages import StoredMessage
from jsjobs.jetstream.jobs.message import new_entry
from jsjobs.jetstream.protocol.headers import GIVEN_ID, parse_block, read_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.times import parse_rfc3339, rfc3339

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"
FIRED_TTL = "8760h"
"""How long the schedule stream keeps fired messages if no router clears them away: a year, longer than any backlog."""
WRITER = "Jsjobs-Writer"
"""Marks a message, so that its writer recognizes it."""
_AT = "@at "


@dataclass(frozen=True, slots=True)
class Schedule:
    """The message on a schedule's subject."""

    subject: bytes
    sequence: int
    stored_at: datetime
    headers: dict[str, str]
    """The headers as published. If a name occurs twice the first value counts, as it does for the server."""
    data: bytes

    @property
    def job_id(self) -> str | None:
        """Return the id that the job will have."""
        return self.headers.get(GIVEN_ID)

    @property
    def is_live(self) -> bool:
        """Return whether it will fire; for a moment, a removed schedule leaves a message that does not."""
        return SCHEDULE in self.headers

    @property
    def own_headers(self) -> dict[str, str]:
        """Return the job's own headers, without the server's and this module's."""
        return {name: value for name, value in self.headers.items() if not name.startswith("Nats-") and name != WRITER}

    @property
    def timing(self) -> dict[str, str]:
        """Return the headers that say when, how and to which subject it fires."""
        return {name: value for name, value in self.headers.items() if name.startswith(SCHEDULE)}

    @property
    def due(self) -> datetime | None:
        """Return when it fires, if it fires once."""
        pattern = self.headers.get(SCHEDULE, "")
        with suppress(ValueError):
            return parse_rfc3339(pattern.removeprefix(_AT)) if pattern.startswith(_AT) else None
        return None

    def entry(self, names: Names) -> JobStatusResponse:
        """Return the entry of a delayed job that nobody has written an entry for.

        Raises:
            JobError: `Validation`, if the schedule is not that of a job.
        """
        queue, job_type = names.queue_of_due(self.headers.get(TARGET, "").encode())
        headers = read_job_headers(tuple(self.own_headers.items()))
        return new_entry(
            self.job_id or "", job_type, queue.priority, headers, self.stored_at, {"scheduled_for": self.due}
        )


def delayed(names: Names, subject: bytes, headers: dict[str, str], due: datetime) -> dict[str, str]:
    """Return the headers of a job's schedule.

    Args:
        names: The namespace.
        subject: The subject on which the job would be published without a delay.
        headers: The job's own headers.
        due: When it is to fire.
    """
    return {**headers, **timed(names.due(subject), at_pattern(due))}


def at_pattern(due: datetime) -> str:
    """Return a time in the server's format."""
    return f"{_AT}{rfc3339(due)}"


def timed(target: bytes, pattern: str) -> dict[str, str]:
    """Return the headers that make a message a schedule.

    Args:
        target: The subject on which the server publishes the job.
        pattern: When it fires, in the server's format.
    """
    return {SCHEDULE: pattern, TARGET: target.decode(), "Nats-Schedule-TTL": FIRED_TTL}


def read_schedule(message: StoredMessage) -> Schedule:
    """Read the message on a schedule's subject.

    Raises:
        JobError: `Validation`, if its headers cannot be read.
    """
    sequence, subject, stored_at, header, data = message
    headers: dict[str, str] = {}
    for name, value in parse_block(header):
        headers.setdefault(name, value)
    return Schedule(subject, sequence, stored_at, headers, data)
