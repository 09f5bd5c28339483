"""Put a dead job back into its queue exactly once, or change the payload that it will run with.

The row is claimed first, with the id that the new job will carry. A process that finds an unfinished claim publishes
the job again. This is harmless, since only one copy of a given id ever runs. The copies have no message id: with one, a
queue would drop even a sourced message as a duplicate of any that had the same id.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from jsjobs.jetstream.api.publish import unknown
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.message import given_entry
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.jobs.state_store import Conflict, StateStore
from jsjobs.jetstream.protocol.headers import ENTITY, EXPIRED, EXPIRES, GIVEN_ID, TENANT, header_block, read_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import MAX_SCHEDULED, Schedules
from jsjobs.jetstream.schedules.unroutable import ADDED, MAX_HEADERS
from jsjobs.model.checks import checked_text
from jsjobs.model.context import DEFAULT_TENANT
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, Priority, utc_now
from jsjobs.postgres import sanitise
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import DatabaseError, DatabaseUnavailable, LetterError, LetterNotFound
from jsjobs.settings import Config

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

_ID_HEADERS = 256  # room for the two headers that a replay has beside its own
_LONGEST_SUBJECT = 4096
_NOT_SENT = ("nats-", GIVEN_ID.lower(), EXPIRES.lower(), EXPIRED.lower())
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TYPE_TOKENS = re.compile(r"[!-)+-=?-~]+")  # printable ASCII without space, `*` and `>`


async def edit_letter(
    letters: DeadLetters, letter: DeadLetter, payload: bytes, *, force: bool = False, instead_of: bytes | None = None
) -> None:
    """Edit a letter as `DeadLetters.edit` does, but first refuse a body with which the job could not be replayed.

    Raises:
        JobError: `Validation`, if it is too large for a queue.
        LetterError: See `DeadLetters.edit`.
        DatabaseError: See `DeadLetters.edit`.
    """
    check_size(replace(letter, payload=payload))
    await letters.edit(letter.id, payload, force=force, instead_of=instead_of)


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
        JobError: `NotFound`; `Validation`, if it is already replayed or discarded; `RunnerUnavailable`.
    """
    checked_text("a letter's id", reference)
    names = Names(config.namespace)
    try:
        found = await letters.find(reference)
        queue, prepared = JobQueue(connection, names), list[_Prepared]()
        # Everything that is published is read with the claim: until then others may edit the letter, and routers may
        # repair it. A letter that cannot be published is refused there, since an unfinished claim would keep it from
        # being discarded.
        given = await letters.claim_replay(
            found.id,
            force=force,
            prepare=lambda claimed: prepared.append(_prepare(queue, claimed, priority)),
        )
        [(letter, to, subject, headers)] = prepared
        headers[GIVEN_ID] = given
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
    subject = queue.job(to, letter.entity, letter.type, letter.payload).subject
    return _Prepared(letter, to, subject, own_headers(letter))


def _readable(letter: DeadLetter) -> DeadLetter:
    """Return the letter without characters that the table takes but this Python's Unicode lacks.

    Its claim can then be finished.
    """
    entity = "".join(char for char in letter.entity or "" if char.isprintable()).strip()
    return replace(letter, entity=entity or None, app_id=sanitise.tenant(letter.app_id))


def check_size(letter: DeadLetter) -> None:
    """Check that a queue takes the letter's job, by way of the schedules.

    Raises:
        JobError: `Validation`, if it is too large.
    """
    headers = len(header_block(own_headers(letter))) + _ID_HEADERS
    if headers + ADDED + _LONGEST_SUBJECT > MAX_HEADERS:
        raise JobError.from_validation(
            f"the job has {headers} bytes of headers with the id of a replay, the limit is {MAX_HEADERS}: "
            "submit a new job, and discard this letter"
        )
    size = headers + len(letter.payload)
    if size > MAX_SCHEDULED:
        raise JobError.from_validation(
            f"the job is too large to carry the id of a replay ({size} bytes with it, the limit is {MAX_SCHEDULED}): "
            "submit a new job, and discard this letter"
        )


async def _write_queued(
    connection: Connection, config: Config, letter: DeadLetter, given: str, priority: Priority, headers: dict[str, str]
) -> None:
    sent = read_job_headers(tuple(headers.items()))
    entry = given_entry(given, letter.type, priority, sent, utc_now())
    with suppress(Conflict):  # a worker has begun it already, or this is a repetition
        await StateStore(connection, Names(config.namespace)).write(entry, expected=0, within=config.timeout)


def own_headers(letter: DeadLetter) -> dict[str, str]:
    """Return the job's headers that can be sent again: none of the server's, none that would only kill it again.

    The header that says when the job expires is left out: a replay is meant to run it.
    """
    # The row is right, whatever a publisher wrote into the header.
    own = {
        ENTITY.lower(): (ENTITY, letter.entity, sanitise.entity),
        TENANT.lower(): (TENANT, None if letter.app_id == DEFAULT_TENANT else letter.app_id, sanitise.tenant),
    }
    headers: dict[str, tuple[str, str]] = {}
    for name, value in [*letter.headers, *((name, value) for name, value, _ in own.values() if value)]:
        lower = name.lower()
        # The row has the value as it can be stored, the header as it was.
        if lower in own and own[lower][2](value) != own[lower][1]:
            continue
        can_be_sent = _TOKEN.fullmatch(name) and value.isprintable() and not lower.startswith(_NOT_SENT)
        if can_be_sent and _can_be_read(name, value):
            # As in reading a job's headers, the first of a name counts, in any case of letters.
            headers.setdefault(lower, (name, value))
    return dict(headers.values())


def _can_be_read(name: str, value: str) -> bool:
    """Return whether a worker can read the header.

    A job with headers that it cannot read would not even run under its given id.
    """
    try:
        read_job_headers([(name, value)])
    except JobError:
        return False
    return True
