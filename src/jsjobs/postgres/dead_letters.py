"""The dead letters of one namespace: stored once each, edited, replayed once, discarded."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg
from pydantic_core import from_json

from jsjobs.model.ids import JobId
from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import (
    AlreadyReplayed,
    ClaimUnreadable,
    LetterChanged,
    LetterDiscarded,
    LetterNotFound,
    PayloadInvalid,
    ReplayUnfinished,
)
from jsjobs.postgres.letter import DeadLetter, FailedAttempt, NewDeadLetter
from jsjobs.postgres.letter_search import LetterSearch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from jsjobs.postgres.database import Connection

__all__ = ["DeadLetter", "DeadLetters", "FailedAttempt", "NewDeadLetter"]

_QUERIES = resources.files("jsjobs.postgres") / "queries"
_STORE = (_QUERIES / "store.sql").read_text("utf-8")
_LOCK = "select replayed_job_id, replayed_at, discarded_at from job_dlq where namespace = $1 and id = $2 for update"
_CLAIM = "update job_dlq set replayed_job_id = $2, replayed_at = null, discarded_at = null where id = $1"
_MARK = """
update job_dlq set replayed_at = now()
where namespace = $1 and id = $2 and replayed_job_id = $3 and replayed_at is null
"""
_DISCARD = "update job_dlq set discarded_at = now() where id = $1"
_EDIT = """
update job_dlq set
    original_payload = coalesce(original_payload, payload), payload = $2, payload_json = $3, edited_at = now()
where id = $1 and ($4::bytea is null or payload = $4)
"""
_REPLAY_ID = re.compile(r"replay-([1-9][0-9]{0,8})-([0-9a-f-]{36})")
# What jsonb may refuse: characters and numbers it does not hold, and documents too deep or too large for it.
_REFUSED_JSON = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)


class DeadLetters(LetterSearch):
    """The table `job_dlq`, as one namespace sees it: to find letters, and to decide on them.

    Every method raises `DatabaseUnavailable` while Postgres is away, and may then be called again.
    """

    async def store(self, letter: NewDeadLetter) -> bool:
        """Stores a letter, whatever is in it; one letter for each original job.

        Returns:
            True when it is new, False when this job's letter is there already, which is left as it is.
        """
        document = sanitise.json_text(letter.payload)
        async with self._database.connection() as connection:
            try:
                stored = await connection.fetchval(_STORE, *letter.parameters(self._namespace, document))
            except _REFUSED_JSON:
                # Postgres is the judge of jsonb, and stricter than Python: the bytes alone always do.
                stored = await connection.fetchval(_STORE, *letter.parameters(self._namespace, None))
        return stored is not None

    async def edit(
        self, letter_id: UUID, payload: bytes, *, force: bool = False, instead_of: bytes | None = None
    ) -> None:
        """Changes the body that a replay will run; the one that was published is kept in `original_payload`.

        Args:
            letter_id: The letter.
            payload: The new body: JSON, kept byte for byte.
            force: Change it though the letter was replayed or discarded.
            instead_of: The body that was read before; None: whatever is there.

        Raises:
            PayloadInvalid: It is not JSON.
            ReplayUnfinished: A replay has begun: its job may be running with the body as it is.
            AlreadyReplayed: A replay is finished, and `force` is not set.
            LetterDiscarded: It was discarded, and `force` is not set.
            LetterChanged: The body is no longer the one that was read before.
            LetterNotFound: There is no such letter.
        """
        _check_json(payload)
        async with self._locked(letter_id) as (connection, row):
            if row["replayed_job_id"] and row["replayed_at"] is None:
                raise ReplayUnfinished(letter_id, row["replayed_job_id"])
            if row["replayed_job_id"] and not force:
                raise AlreadyReplayed(letter_id, row["replayed_job_id"])
            if row["discarded_at"] and not force:
                raise LetterDiscarded(letter_id)
            document = sanitise.json_text(payload)
            try:
                async with connection.transaction():
                    done = await connection.execute(_EDIT, letter_id, payload, document, instead_of)
            except _REFUSED_JSON:
                done = await connection.execute(_EDIT, letter_id, payload, None, instead_of)
            if done != "UPDATE 1":
                raise LetterChanged(letter_id)

    async def claim_replay(self, letter_id: UUID, *, force: bool = False) -> JobId:
        """Claims the letter for a replay and gives the id its job must bear, `replay-<n>-<letter id>`.

        A claim that was never marked as replayed gives the same id again, as a duplicate: to publish it once more does
        no harm.

        Args:
            letter_id: The letter.
            force: Replay it again though it was replayed, or though it was discarded (it is then no longer discarded).

        Raises:
            AlreadyReplayed: A replay is finished, and `force` is not set.
            LetterDiscarded: It was discarded, and `force` is not set.
            ClaimUnreadable: Something else than an id of such a replay was written into the row.
            LetterNotFound: There is no such letter.
        """
        async with self._locked(letter_id) as (connection, row):
            claimed: str | None = row["replayed_job_id"]
            number = _number(letter_id, claimed)
            if claimed and row["replayed_at"] is None:
                return JobId(claimed, duplicate=True)
            if claimed and not force:
                raise AlreadyReplayed(letter_id, claimed)
            if row["discarded_at"] and not force:
                raise LetterDiscarded(letter_id)
            job_id = JobId(f"replay-{number + 1}-{letter_id}")
            await connection.execute(_CLAIM, letter_id, job_id)
        return job_id

    async def mark_replayed(self, letter_id: UUID, replayed_job_id: str) -> None:
        """Finishes the claim of this id; does nothing where it is finished, or where another claim stands."""
        async with self._database.connection() as connection:
            await connection.execute(_MARK, self._namespace, letter_id, replayed_job_id)

    async def discard(self, letter_id: UUID) -> bool:
        """Sets the letter aside as decided; it stays in the table.

        Returns:
            True when this call discarded it, False when it was discarded before.

        Raises:
            ReplayUnfinished: A replay has begun: its job may be running, so the letter is not to be called discarded.
            LetterNotFound: There is no such letter.
        """
        async with self._locked(letter_id) as (connection, row):
            if row["replayed_job_id"] and row["replayed_at"] is None:
                raise ReplayUnfinished(letter_id, row["replayed_job_id"])
            if row["discarded_at"]:
                return False
            await connection.execute(_DISCARD, letter_id)
        return True

    @asynccontextmanager
    async def _locked(self, letter_id: UUID) -> AsyncIterator[tuple[Connection, asyncpg.Record]]:
        # Two operators who press at once decide one after the other, each on what the other has written.
        async with self._database.connection() as connection, connection.transaction():
            row = await connection.fetchrow(_LOCK, self._namespace, letter_id)
            if row is None:
                raise LetterNotFound(f"no dead letter {letter_id}")
            yield connection, row


def _number(letter_id: UUID, claimed: str | None) -> int:
    """Which replay of the letter that is; whoever may write the row wrote what it says."""
    if not claimed:
        return 0
    match = _REPLAY_ID.fullmatch(claimed)
    if match is None or match[2] != str(letter_id):
        raise ClaimUnreadable(letter_id, claimed)
    return int(match[1])


def _check_json(payload: bytes) -> None:
    if not isinstance(payload, bytes):
        raise PayloadInvalid(f"the payload must be JSON in bytes, not {type(payload).__name__}")
    try:
        from_json(payload, allow_inf_nan=False)  # as workers read it
    except ValueError as error:
        raise PayloadInvalid(f"the payload is not JSON: {error}") from None
