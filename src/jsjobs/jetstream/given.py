"""Ids that messages carry: believed only where the server itself says where the message came from.

Ids are no secrets, and who may publish jobs may write any header. Two headers are the server's own: a queue's source
adds `Nats-Stream-Source` to what it takes from the schedules, and what a schedule fires has `Nats-Scheduler` with its
subject. The server refuses both from a publisher, but looks at the first line of that name alone, and overlooks it
behind the same name twice in a row (nats-server 2.15.1, measured): hence a name counts only where it stands there once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from jsjobs.jetstream.firing import NAME
from jsjobs.jetstream.ids import is_replay_id
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import GIVEN_ID, JobHeaders, value_of
from jsjobs.model.errors import JobError

_SOURCE = b"Nats-Stream-Source"
_SCHEDULER = b"Nats-Scheduler"


class Believed(NamedTuple):
    """What a message that carries an id says of it, as far as that is true."""

    job_id: str | None
    """None, if the id is not this message's to carry: its job has one of its own."""
    headers: JobHeaders
    """Without what is not true."""
    due: datetime | None = None
    """When it was due, if it is a firing of a periodic schedule."""
    problem: JobError | None = None
    """Why the message cannot be run."""


def believed(names: Names, subject: bytes, header: bytes, headers: JobHeaders, stored_at: datetime) -> Believed:
    """Judge the id that a message carries; call it only for one that does.

    Args:
        names: The namespace.
        subject: Where it is stored.
        header: Its header block.
        headers: What that says.
        stored_at: When it was stored.
    """
    is_ours = _came_from_the_schedules(names, subject, header)
    given, firing = headers.given_id, headers.firing
    if given is not None:
        if is_ours and _may_carry(names, header, given):
            return Believed(given, headers)
        problem = (
            f"{GIVEN_ID}: {given!r} is another job's: only its own schedule's message, or a replay's, carries such an "
            "id; leave the header out"
        )
    else:
        assert firing is not None
        if is_ours and _once(header, _SCHEDULER) == names.periodic(firing.name):
            due = firing.due(stored_at)
            return Believed(firing.job_id(due), headers, due)
        problem = f"{NAME}: no schedule {firing.name!r} fired this message; leave Nats-Schedule-Next out"
    return Believed(None, replace(headers, given_id=None, firing=None), problem=JobError.from_validation(problem))


def _may_carry(names: Names, header: bytes, given: str) -> bool:
    if is_replay_id(given):
        return _SCHEDULER not in header  # published on `due` itself, where no publisher of jobs may
    return _once(header, _SCHEDULER) == names.schedule(given)


def _came_from_the_schedules(names: Names, subject: bytes, header: bytes) -> bool:
    """Whether it is stored among them, as due, or its queue took it from there."""
    if subject.startswith(b"%b.due." % names.namespace.encode()):
        return True
    source = _once(header, _SOURCE) or b""
    # Behind the stream's name comes where it is, if that is another account or domain; then the message's place.
    return source.partition(b" ")[0].partition(b":")[0] == names.schedule_stream.encode()


def _once(header: bytes, name: bytes) -> bytes | None:
    return value_of(header, name) if header.count(name) == 1 else None
