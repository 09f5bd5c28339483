"""The dead letters of one namespace: stored once each, found, replayed once, discarded."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import (
    AlreadyReplayed,
    LetterAmbiguous,
    LetterDiscarded,
    LetterNotFound,
    ReplayUnfinished,
)
from jsjobs.postgres.letter import DeadLetter, FailedAttempt, NewDeadLetter

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator
    from datetime import datetime

    from jsjobs.postgres.database import Connection, Database

__all__ = ["DeadLetter", "DeadLetters", "FailedAttempt", "NewDeadLetter"]

_QUERIES = resources.files("jsjobs.postgres") / "queries"
_STORE = (_QUERIES / "store.sql").read_text("utf-8")
_LIST = (_QUERIES / "list.sql").read_text("utf-8")
_COUNT_OPEN = "select count(*) from job_dlq where namespace = $1 and replayed_at is null and discarded_at is null"
_GET = "select * from job_dlq where namespace = $1 and id = $2"
# Three rows tell as well as all of them that what was asked is ambiguous.
_FIND = "select * from job_dlq where namespace = $1 and (original_job_id = $2 or id between $3 and $4) limit 3"
_LOCK = "select replayed_job_id, replayed_at, discarded_at from job_dlq where namespace = $1 and id = $2 for update"
_CLAIM = "update job_dlq set replayed_job_id = $2, replayed_at = null, discarded_at = null where id = $1"
_MARK = """
update job_dlq set replayed_at = now()
where namespace = $1 and id = $2 and replayed_job_id = $3 and replayed_at is null
"""
_DISCARD = "update job_dlq set discarded_at = now() where id = $1"
# Ids above 2^53 are nobody's: a forged letter must not push a stream's first sequence out of range.
_HIGHEST = """
select split_part(original_job_id, '-', 1) as priority, max(split_part(original_job_id, '-', 2)::bigint) as sequence
from (
    select original_job_id from job_dlq
    where namespace = $1 and original_job_id ~ '^(critical|high|normal|low)-[1-9][0-9]{0,15}$'
    offset 0 -- filtered before the numbers are read
) as plain
where split_part(original_job_id, '-', 2)::bigint < 9007199254740992
group by 1
"""

# What jsonb may refuse: characters and numbers it does not hold, and documents too deep or too large for it.
_REFUSED_JSON = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
_PREFIX = re.compile("[0-9a-f]{6,32}")
_UUID_DIGITS = 32


class DeadLetters:
    """The table `job_dlq`, as one namespace sees it.

    Every method raises `DatabaseUnavailable` while Postgres is away, and may then be called again.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        """Binds the table to a namespace; touches no server."""
        self._database = database
        self._namespace = namespace

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

    async def get(self, letter_id: UUID) -> DeadLetter | None:
        """Gives the letter with this id, or None."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_GET, self._namespace, letter_id)
        return None if row is None else DeadLetter.from_row(row)

    async def find(self, prefix_or_id: str) -> DeadLetter:
        """Finds the one letter that is meant by an id, the first 6 or more digits of one, or the original job's id.

        Raises:
            LetterNotFound: None answers to it.
            LetterAmbiguous: Several do.
        """
        first, last = _range(prefix_or_id)
        # A whole id is meant as such, even where a hostile job bears it as its own.
        if first is not None and first == last and (letter := await self.get(first)):
            return letter
        async with self._database.connection() as connection:
            rows = await connection.fetch(_FIND, self._namespace, sanitise.key(prefix_or_id), first, last)
        if not rows:
            raise LetterNotFound(
                f"no dead letter {prefix_or_id!r}: give its id, 6 or more digits of it, or the job's id"
            )
        if len(rows) > 1:
            ids = ", ".join(str(row["id"]) for row in rows)
            raise LetterAmbiguous(f"more than one dead letter {prefix_or_id!r}, such as {ids}: give more digits")
        return DeadLetter.from_row(rows[0])

    async def list(
        self,
        *,
        tenant: str | None = None,
        type: str | None = None,  # noqa: A002 -- named like the column and the option it stands for
        reason: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
        include_replayed: bool = False,
        include_discarded: bool = False,
        after: DeadLetter | None = None,
    ) -> builtins.list[DeadLetter]:
        """Lists letters, newest first; by default the undecided: neither replayed nor discarded.

        A letter whose replay has begun and is not finished counts as undecided.

        Args:
            tenant: Only of this tenant (`app_id`).
            type: Only of this job type.
            reason: Only with this `error_reason`.
            since: Only those that died then or later.
            limit: At most so many.
            include_replayed: Also those whose replay is finished.
            include_discarded: Also those that were discarded.
            after: Go on after this letter, the last one of the page before.
        """
        wanted = [None if text is None else sanitise.key(text) for text in (tenant, type, reason)]
        begin = None if since is None else sanitise.moment(since)
        position = (None, None) if after is None else (after.dead_at, after.id)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                _LIST, self._namespace, *wanted, begin, include_replayed, include_discarded, *position, limit
            )
        return [DeadLetter.from_row(row) for row in rows]

    async def count_open(self) -> int:
        """How many letters are undecided, as `list` shows them by default."""
        async with self._database.connection() as connection:
            count: int = await connection.fetchval(_COUNT_OPEN, self._namespace)
        return count

    async def claim_replay(self, letter_id: UUID, *, force: bool = False) -> str:
        """Claims the letter for a replay and gives the id its job must bear, `replay-<n>-<letter id>`.

        A claim that was never marked as replayed gives the same id again: to publish it once more does no harm.

        Args:
            letter_id: The letter.
            force: Replay it again though it was replayed, or though it was discarded (it is then no longer discarded).

        Raises:
            AlreadyReplayed: A replay is finished, and `force` is not set.
            LetterDiscarded: It was discarded, and `force` is not set.
            LetterNotFound: There is no such letter.
        """
        async with self._locked(letter_id) as (connection, row):
            claimed: str | None = row["replayed_job_id"]
            if claimed and row["replayed_at"] is None:
                return claimed
            if claimed and not force:
                raise AlreadyReplayed(letter_id, claimed)
            if row["discarded_at"] and not force:
                raise LetterDiscarded(letter_id)
            number = int(claimed.split("-")[1]) + 1 if claimed else 1
            job_id = f"replay-{number}-{letter_id}"
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

    async def highest_sequences(self) -> dict[str, int]:
        """The highest stream sequence among the dead jobs of each priority, as their ids tell it."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_HIGHEST, self._namespace)
        return {row["priority"]: row["sequence"] for row in rows}

    @asynccontextmanager
    async def _locked(self, letter_id: UUID) -> AsyncIterator[tuple[Connection, asyncpg.Record]]:
        # Two operators who press at once decide one after the other, each on what the other has written.
        async with self._database.connection() as connection, connection.transaction():
            row = await connection.fetchrow(_LOCK, self._namespace, letter_id)
            if row is None:
                raise LetterNotFound(f"no dead letter {letter_id}")
            yield connection, row


def _range(prefix: str) -> tuple[UUID | None, UUID | None]:
    """The first and last id that begin so; twice the same for a whole id, nothing for what cannot begin one."""
    digits = prefix.lower().replace("-", "")
    if not _PREFIX.fullmatch(digits):
        return None, None
    return UUID(digits.ljust(_UUID_DIGITS, "0")), UUID(digits.ljust(_UUID_DIGITS, "f"))
