"""Putting a dead job back into its queue, exactly once.

The row is claimed first, with an id that the new job will carry; whoever finds an unfinished claim publishes it again,
which is harmless, since only one copy of a given id is ever run.
"""

from __future__ import annotations

import re
from contextlib import suppress

from jsjobs.jetstream import wire
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.queue import JobQueue, Outgoing
from jsjobs.jetstream.state import Conflict, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.context import DEFAULT_TENANT
from jsjobs.model.errors import JobError
from jsjobs.model.job import DEFAULT_MAX_ATTEMPTS, HistoryItem, JobId, JobStatusResponse, Priority, Status, utc_now
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import DatabaseError, DatabaseUnavailable, LetterError, LetterNotFound
from jsjobs.settings import Config

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
) -> JobId:
    """Replay a letter; see `JobService.replay`.

    Raises:
        JobError: `NotFound`; `Validation`, if it was replayed or discarded before; `RunnerUnavailable`.
    """
    try:
        letter = await letters.find(reference)
        given = await letters.claim_replay(letter.id, force=force)
        await _put_back(connection, config, letter, given, priority or Priority(letter.priority))
        await letters.mark_replayed(letter.id, given)
    except LetterNotFound as error:
        raise JobError.from_not_found(str(error)) from None
    except DatabaseUnavailable as error:
        raise JobError.from_runner_unavailable(str(error)) from None
    except (LetterError, DatabaseError, ValueError) as error:
        raise JobError.from_validation(str(error)) from None
    return JobId(given)


async def _put_back(connection: Connection, config: Config, letter: DeadLetter, given: str, priority: Priority) -> None:
    names = Names(config.namespace)
    if not _TYPE_TOKENS.fullmatch(letter.type) or ".." in f".{letter.type}.":
        raise JobError.from_validation(f"a job of type {letter.type[:80]!r} cannot be published again")
    headers = own_headers(letter) | {wire.GIVEN_ID: given, wire.MSG_ID: given}
    queue = JobQueue(connection, names, timeout=config.timeout)
    await queue.publish(Outgoing(queue.subject(priority, letter.entity, letter.type), letter.payload, headers))
    now = utc_now()
    attempts = headers.get(wire.MAX_ATTEMPTS, "")
    entry = JobStatusResponse(
        job_id=given,
        status=Status.QUEUED,
        history=(HistoryItem(status=Status.QUEUED, timestamp=now, attempt=0),),
        type=letter.type,
        priority=priority,
        entity=letter.entity,
        tenant=headers.get(wire.TENANT),
        batch_id=letter.batch_id,
        created_at=now,
        max_attempts=int(attempts) if attempts.isdigit() and int(attempts) else DEFAULT_MAX_ATTEMPTS,
    )
    with suppress(Conflict):  # a worker has begun it already, or this is a repetition
        await StateStore(connection, names).write(entry, expected=0)


def own_headers(letter: DeadLetter) -> dict[str, str]:
    """The job's headers as they can be sent again: none of the server's, none that no header can hold."""
    headers = {
        name: value
        for name, value in letter.headers
        if _TOKEN.fullmatch(name) and value.isprintable() and not name.lower().startswith(("nats-", "jsjobs-id"))
    }
    if letter.entity:
        headers.setdefault(wire.ENTITY, letter.entity)
    if letter.app_id != DEFAULT_TENANT:
        headers.setdefault(wire.TENANT, letter.app_id)
    return headers
