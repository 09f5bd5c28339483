"""The dead letters of one namespace: stored once each, edited, replayed once, discarded."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pydantic_core import from_json

from jsjobs.model.job import JobId
from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import (
    AlreadyReplayed,
    LetterChanged,
    LetterDiscarded,
    LetterLocked,
    LetterNotFound,
    LetterUnpublishable,
    PayloadInvalid,
    ReplayUnfinished,
    TablesLocked,
)
from jsjobs.postgres.letter import DeadLetter, FailedAttempt, NewDeadLetter
from jsjobs.postgres.letter_search import GET, LetterSearch
from jsjobs.postgres.locks import Wanted
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from uuid import UUID

    import asyncpg

    from jsjobs.postgres.locks import Connection

__all__ = ["DeadLetter", "DeadLetters", "FailedAttempt", "NewDeadLetter"]

logger = get_logger("jsjobs.postgres")

_STORE = """
select jsjobs_api.store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
"""
_MET = "select id, type, app_id, created_at from jsjobs_api.met($1, $2, $3, $4, $5)"
_CLAIM = "select outcome, job_id from jsjobs_api.claim_replay($1, $2, $3, $4)"
_MARK = "select jsjobs_api.mark_replayed($1, $2, $3, $4)"
_DISCARD = "select outcome, job_id from jsjobs_api.discard($1, $2, $3)"
_EDIT = "select outcome, job_id from jsjobs_api.edit($1, $2, $3, $4, $5, $6, $7)"


_MEETS = (
    "letter of job %s (type %s, tenant %s, created %s) is not stored: "
    "another letter, %s (type %s, tenant %s, created %s), has its id"
)


class DeadLetters(LetterSearch):
    """The table `job_dlq` as one namespace sees it: find letters, and decide on them.

    Every method raises `DatabaseUnavailable` while Postgres is unavailable, and may then be called again.
    """

    async def store(self, letter: NewDeadLetter) -> bool:
        """Store a letter, whatever is in it; there is one letter for each original job.

        Returns:
            True when it is new. False when this job's letter is there already: that one is left as it is, and where it
            is about another job, a warning in the log names both.
        """
        parameters = letter.parameters(self._namespace)
        _, tenant, job_id, type_, *_ = parameters
        created_at = parameters[14]
        async with self._database.connection(Wanted(self._namespace, None, str(job_id))) as connection:
            stored = await connection.fetchval(_STORE, *parameters)
            met = (
                None if stored else await connection.fetchrow(_MET, self._namespace, job_id, tenant, type_, created_at)
            )
        if met is not None:
            logger.warning(_MEETS, job_id, type_, tenant, created_at, *met)
        return stored is not None

    async def edit(
        self, letter_id: UUID, payload: bytes, *, force: bool = False, instead_of: bytes | None = None
    ) -> None:
        """Change the body that a replay will run; the body as published is kept in `original_payload`.

        Args:
            letter_id: The letter.
            payload: The new body: JSON, kept byte for byte.
            force: Change it even if the letter was replayed or discarded.
            instead_of: The body that was read before; None: whatever is there.

        Raises:
            PayloadInvalid: The new body is not JSON.
            ReplayUnfinished: A replay has begun: its job may be running with the current body.
            AlreadyReplayed: A replay is finished, and `force` is not set.
            LetterDiscarded: The letter was discarded, and `force` is not set.
            LetterChanged: The body is no longer the one that was read before.
            LetterUnpublishable: No queue accepts its job with this body.
            LetterLocked: The same as for `claim_replay`.
            LetterNotFound: There is no such letter.
        """
        _check_json(payload)
        given = (payload, sanitise.json_text(payload) is not None, force, instead_of)
        async with self._decision(letter_id) as (connection, patience):
            _judge(letter_id, await connection.fetchrow(_EDIT, self._namespace, letter_id, *given, patience))

    async def claim_replay(
        self, letter_id: UUID, *, force: bool = False, prepare: Callable[[DeadLetter], None] | None = None
    ) -> JobId:
        """Claim the letter for a replay, and return the id that its job must have, `replay-<n>-<letter id>`.

        A claim that was never marked as replayed returns the same id again, as a duplicate: publishing it once more
        does no harm.

        Args:
            letter_id: The letter.
            force: Replay it again even if it was replayed or discarded; it is then no longer discarded.
            prepare: Called with the letter as it is claimed, which nobody can change until the replay is finished. An
                exception that it raises undoes the claim.

        Raises:
            AlreadyReplayed: A replay is finished, and `force` is not set.
            LetterDiscarded: The letter was discarded, and `force` is not set.
            LetterUnpublishable: No queue accepts its job.
            LetterUnreadable: Somebody wrote it without using the functions.
            LetterLocked: Another transaction holds it for longer than a second, or less where many letters are held.
            LetterNotFound: There is no such letter.
        """
        async with self._decision(letter_id) as (connection, patience), connection.transaction():
            row = await connection.fetchrow(_CLAIM, self._namespace, letter_id, force, patience)
            assert row is not None
            # `prepare` says more exactly than the database what cannot be published.
            if prepare is not None and row["outcome"] in {"done", "unfinished", "unpublishable"}:
                claimed = await connection.fetchrow(GET, self._namespace, letter_id)
                assert claimed is not None
                prepare(DeadLetter.from_row(claimed))
            is_duplicate = row["outcome"] == "unfinished"
            if not is_duplicate:
                _judge(letter_id, row)
        return JobId(row["job_id"], duplicate=is_duplicate)

    async def mark_replayed(self, letter_id: UUID, replayed_job_id: str) -> None:
        """Finish the claim with this id; do nothing if it is finished already, or if there is another claim.

        Raises:
            LetterLocked: The same as for `claim_replay`.
        """
        async with self._decision(letter_id) as (connection, patience):
            await connection.execute(_MARK, self._namespace, letter_id, replayed_job_id, patience)

    async def discard(self, letter_id: UUID) -> bool:
        """Discard the letter: it counts as decided, and stays in the table.

        Returns:
            True when this call discarded it, False when it was already discarded.

        Raises:
            ReplayUnfinished: A replay has begun: its job may be running, so the letter cannot count as discarded.
            LetterLocked: The same as for `claim_replay`.
            LetterNotFound: There is no such letter.
        """
        async with self._decision(letter_id) as (connection, patience):
            row = await connection.fetchrow(_DISCARD, self._namespace, letter_id, patience)
        if row is not None and row["outcome"] == "discarded":
            return False
        _judge(letter_id, row)
        return True

    @asynccontextmanager
    async def _decision(self, letter_id: UUID) -> AsyncIterator[tuple[Connection, int]]:
        # Two operators who decide at once do so one after the other; the second sees what the first has written.
        patience = self._database.patience.milliseconds
        try:
            async with self._database.connection(Wanted(self._namespace, letter_id)) as connection:
                yield connection, patience
        except TablesLocked as error:
            self._database.patience.spend(patience)
            raise LetterLocked(letter_id, error.holders) from error


def _judge(letter_id: UUID, row: asyncpg.Record | None) -> None:
    """Raise the error for what a function of the database found instead of deciding."""
    assert row is not None
    job_id = row["job_id"]
    match row["outcome"]:
        case "unknown":
            raise LetterNotFound(f"no dead letter {letter_id}")
        case "unfinished":
            raise ReplayUnfinished(letter_id, job_id)
        case "replayed":
            raise AlreadyReplayed(letter_id, job_id)
        case "discarded":
            raise LetterDiscarded(letter_id)
        case "changed":
            raise LetterChanged(letter_id)
        case "unpublishable":
            raise LetterUnpublishable(letter_id)


def _check_json(payload: bytes) -> None:
    if not isinstance(payload, bytes):
        raise PayloadInvalid(f"the payload must be JSON in bytes, not {type(payload).__name__}")
    try:
        from_json(payload, allow_inf_nan=False)  # as workers read it
    except ValueError as error:
        raise PayloadInvalid(f"the payload is not JSON: {error}") from None
