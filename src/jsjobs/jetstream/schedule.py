"""A schedule as it stands on its subject: what it fires, when and whereto."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from jsjobs.jetstream.incoming import new_entry
from jsjobs.jetstream.stored import StoredMessage
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, header_block, parse_block, parse_job_headers
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.times import parse_rfc3339, rfc3339

SCHEDULE = "Nats-Schedule"
TARGET = "Nats-Schedule-Target"
FIRED_TTL = "8760h"
"""How long the schedule stream keeps what fired, where no router clears it away: a year, longer than any backlog."""
WRITER = "Jsjobs-Writer"
"""Whoever wrote it knows it again by this."""
_AT = "@at "


@dataclass(frozen=True, slots=True)
class Schedule:
    """What stands on a schedule's subject."""

    subject: bytes
    sequence: int
    stored_at: datetime
    headers: dict[str, str]
    """As it was published; where a name comes twice, its first value, as the server has it."""
    data: bytes

    @property
    def job_id(self) -> str | None:
        """The id that the job will have."""
        return self.headers.get(GIVEN_ID)

    @property
    def is_live(self) -> bool:
        """Whether it will fire; what was removed leaves a message without a schedule for a moment."""
        return SCHEDULE in self.headers

    @property
    def own_headers(self) -> dict[str, str]:
        """The job's own headers: none of the server's, none of this module's."""
        return {name: value for name, value in self.headers.items() if not name.startswith("Nats-") and name != WRITER}

    @property
    def timing(self) -> dict[str, str]:
        """The headers that say when, how and whereto it fires."""
        return {name: value for name, value in self.headers.items() if name.startswith(SCHEDULE)}

    @property
    def due(self) -> datetime | None:
        """When it fires, if it does so once."""
        pattern = self.headers.get(SCHEDULE, "")
        with suppress(ValueError):
            return parse_rfc3339(pattern.removeprefix(_AT)) if pattern.startswith(_AT) else None
        return None

    def entry(self, names: Names) -> JobStatusResponse:
        """The entry of a delayed job that nobody has written of yet.

        Raises:
            JobError: `Validation`, if the schedule is not one of a job.
        """
        priority, job_type = names.queue_of_due(self.headers.get(TARGET, "").encode())
        headers = parse_job_headers(header_block(self.own_headers))
        return new_entry(self.job_id or "", job_type, priority, headers, self.stored_at, {"scheduled_for": self.due})


def delayed(names: Names, subject: bytes, headers: dict[str, str], due: datetime) -> dict[str, str]:
    """Headers of a job's schedule.

    Args:
        names: The namespace.
        subject: Where the job would be published without a delay.
        headers: The job's own.
        due: When it is to fire.
    """
    return {**headers, **timed(names.due(subject), at_pattern(due))}


def at_pattern(due: datetime) -> str:
    """A time as the server wants it."""
    return f"{_AT}{rfc3339(due)}"


def timed(target: bytes, pattern: str) -> dict[str, str]:
    """The headers that make a message a schedule.

    Args:
        target: Where the server publishes.
        pattern: When, in the server's words.
    """
    return {SCHEDULE: pattern, TARGET: target.decode(), "Nats-Schedule-TTL": FIRED_TTL}


def read_schedule(message: StoredMessage) -> Schedule:
    """Read what stands on a schedule's subject.

    Raises:
        JobError: `Validation`, if its headers cannot be read.
    """
    sequence, subject, stored_at, header, data = message
    headers: dict[str, str] = {}
    for name, value in parse_block(header):
        headers.setdefault(name, value)
    return Schedule(subject, sequence, stored_at, headers, data)
