"""Putting a dead job back into its queue, exactly once.

The row is claimed first, with an id that the new job will carry; whoever finds an unfinished claim publishes it again,
which is harmless, since only one copy of a given id is ever run. It has no message id for that reason: a queue drops
what it sources, too, as a duplicate of any message that had the same one.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from jsjobs.jetstream import wire
from jsjobs.jetstream.acknowledgements import unknown
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.incoming import given_entry
from jsjobs.jetstream.queue import JobQueue
from jsjobs.jetstream.schedules import MAX_SCHEDULED, Schedules
from jsjobs.jetstream.state import Conflict, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.unfit import ADDED, MAX_HEADERS
from jsjobs.model.checks import checked_text
from jsjobs.model.context import DEFAULT_TENANT
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import Priority, utc_now
from jsjobs.postgres import sanitise
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import DatabaseError, DatabaseUnavailable, LetterError, LetterNotFound
from jsjobs.settings import Config

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

_ID_HEADERS = 256  # room for the two headers that a replay has beside its own
_LONGEST_SUBJECT = 4096
_NOT_SENT = ("nats-", wire.GIVEN_ID.lower(), wire.EXPIRES.lower(), wire.EXPIRED.lower())
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TYPE_TOKENS = re.compile(r"[!-)+-=?-~]+")  # printable ASCII without space, `*` and `>`


async def replay_letter(
    connection: Connection,
    config: Config,
    letters: DeadLetters,
    reference: str,
    *,
    priority: Priority | None = None,
    force: bool = False,
    telemetry: Telemetry | None = None,
) -> JobId:
    """Replay a letter; see `JobService.replay`.

    Raises:
        JobError: `NotFound`; `Validation`, if it was replayed or discarded before; `RunnerUnavailable`.
    """
    checked_text("a letter's id", reference)
    names = Names(config.namespace)
    try:
        found = await letters.find(reference)
        queue, prepared = JobQueue(connection, names), list[_Prepared]()
        # All of what is published is read with the claim: others edit letters, and routers mend them, until then. What
        # cannot be published is refused there: an unfinished claim would keep the letter from being discarded.
        given = await letters.claim_replay(
            found.id,
            force=force,
            prepare=lambda claimed: prepared.append(_prepare(queue, claimed, priority)),
        )
        [(letter, to, subject, headers)] = prepared
        headers[wire.GIVEN_ID] = given
        # An entry tells that whoever claimed it came so far: another copy would only be dropped.
        if not given.duplicate or await StateStore(connection, names).read(given) is None:
            await Schedules(connection, names, timeout=config.timeout).hand_over(subject, headers, letter.payload)
            if telemetry is not None and not given.duplicate:
                telemetry.count("jobs.submitted", letter.type, "replay", to)
            await _write_queued(connection, config, letter, given, to, headers)
        await letters.mark_replayed(letter.id, given)
    except ConnectionLost as error:
        raise unknown(error, "replay it again, it will not run twice") from error
    except LetterNotFound as error:
        raise JobError.from_not_found(str(error)) from error
    except DatabaseUnavailable as error:
        raise JobError.from_runner_unavailable(str(error)) from error
    except (LetterError, DatabaseError, ValueError) as error:
        raise JobError.from_validation(str(error)) from error
    return JobId(given)


class _Prepared(NamedTuple):
    letter: DeadLetter
    priority: Priority
    subject: bytes
    headers: dict[str, str]


def _prepare(queue: JobQueue, letter: DeadLetter, priority: Priority | None) -> _Prepared:
    if not _TYPE_TOKENS.fullmatch(letter.type) or ".." in f".{letter.type}.":
        raise JobError.from_validation(f"a job of type {letter.type[:80]!r} cannot be published again")
    to = priority or Priority(letter.priority)
    letter = _readable(letter)
    check_size(letter)
    return _Prepared(letter, to, queue.subject(to, letter.entity, letter.type), own_headers(letter))


def _readable(letter: DeadLetter) -> DeadLetter:
    """The letter without what this Python's Unicode lacks and the table takes: its claim can be finished."""
    entity = "".join(char for char in letter.entity or "" if char.isprintable()).strip()
    return replace(letter, entity=entity or None, app_id=sanitise.tenant(letter.app_id))


def check_size(letter: DeadLetter) -> None:
    """See that a queue takes the letter's job, by way of the schedules.

    Raises:
        JobError: `Validation`, if it is too large.
    """
    headers = len(wire.header_block(own_headers(letter))) + _ID_HEADERS
    if headers + ADDED + _LONGEST_SUBJECT > MAX_HEADERS:
        raise JobError.from_validation(
            f"the job has {headers} bytes of headers with the id of a replay, a server takes {MAX_HEADERS}: "
            "submit it anew, and discard this letter"
        )
    size = headers + len(letter.payload)
    if size > MAX_SCHEDULED:
        raise JobError.from_validation(
            f"the job is too large to carry the id of a replay ({size} bytes with it, {MAX_SCHEDULED} are taken): "
            "submit it anew, and discard this letter"
        )


async def _write_queued(
    connection: Connection, config: Config, letter: DeadLetter, given: str, priority: Priority, headers: dict[str, str]
) -> None:
    sent = wire.parse_job_headers(wire.header_block(headers))
    entry = given_entry(given, letter.type, priority, sent, utc_now())
    with suppress(Conflict):  # a worker has begun it already, or this is a repetition
        await StateStore(connection, Names(config.namespace)).write(entry, expected=0, within=config.timeout)


def own_headers(letter: DeadLetter) -> dict[str, str]:
    """The job's headers as they can be sent again: none of the server's, none that would only kill it again.

    Whoever replays a job wants it run, so that nothing says any more when it expires.
    """
    # What stands in the row is true, whatever a publisher wrote into its header.
    own = {
        wire.ENTITY.lower(): (wire.ENTITY, letter.entity, sanitise.entity),
        wire.TENANT.lower(): (wire.TENANT, None if letter.app_id == DEFAULT_TENANT else letter.app_id, sanitise.tenant),
    }
    headers: dict[str, tuple[str, str]] = {}
    for name, value in [*letter.headers, *((name, value) for name, value, _ in own.values() if value)]:
        lower = name.lower()
        # The row has it as it can be stored, the header as it was.
        if lower in own and own[lower][2](value) != own[lower][1]:
            continue
        can_be_sent = _TOKEN.fullmatch(name) and value.isprintable() and not lower.startswith(_NOT_SENT)
        if can_be_sent and _can_be_read(name, value):
            # As where a job's headers are read: the first of a name counts, in whatever case.
            headers.setdefault(lower, (name, value))
    return dict(headers.values())


def _can_be_read(name: str, value: str) -> bool:
    """Whether a worker can; a job with headers that it cannot read would not even run under the id given to it."""
    try:
        wire.parse_job_headers(wire.header_block({name: value}))
    except JobError:
        return False
    return True
