"""Find the dead letters of one namespace: get one, list many, count them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack
from uuid import UUID

from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import LetterAmbiguous, LetterNotFound, LetterUnreadable
from jsjobs.postgres.letter import DeadLetter, LetterHeading
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator
    from datetime import datetime

    from asyncpg import Record

    from jsjobs.postgres.database import Database

logger = get_logger("jsjobs.postgres")

_LIST = "select * from jsjobs_api.letters($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_HEADINGS = "select * from jsjobs_api.headings($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_COUNT = "select jsjobs_api.count($1, $2, $3, $4, $5, $6, $7, $8)"
_UNDECIDED = "select id, priority, entity from jsjobs_api.undecided($1, $2, $3, $4, $5, $6, $7)"
GET = "select * from jsjobs_api.letter($1, $2)"
_FIND = "select * from jsjobs_api.find($1, $2, $3, $4)"
_HIGHEST = "select queue, sequence from jsjobs_api.highest_sequences($1)"

_PREFIX = re.compile("[0-9a-f]{6,32}")
_UUID_DIGITS = 32
_PAGE = 50
"""Letters read at a time: one body may be most of a megabyte."""
_MANY = 60.0
"""Seconds allowed for a statement that may read every row."""


class Undecided(NamedTuple):
    """A letter without its body: enough to decide on it, and to keep the order of its entity's letters."""

    id: UUID
    priority: str
    entity: str | None


class LetterFilter(TypedDict, total=False):
    """A filter that selects the letters for which all of it is true; a field left out, or None, selects all."""

    tenant: str | None
    """Only letters of this tenant (`app_id`)."""
    type: str | None
    """Only letters of this job type."""
    reason: str | None
    """Only letters with this `error_reason`."""
    since: datetime | None
    """Only letters whose job died then or later."""
    batch: str | None
    """Only letters of this batch."""


class LetterSearch:
    """The table `job_dlq` for readers, as one namespace and the logged-in user see it.

    Every method raises `DatabaseUnavailable` while Postgres is unavailable, and may then be called again.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        """Bind the table to a namespace; this contacts no server."""
        self._database = database
        self._namespace = namespace

    async def get(self, letter_id: UUID) -> DeadLetter | None:
        """Return the letter with this id, or None."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(GET, self._namespace, letter_id)
        return None if row is None else DeadLetter.from_row(row)

    async def find(self, prefix_or_id: str) -> DeadLetter:
        """Find the one letter with this id, the first 6 or more digits of its id, or its original job's id.

        Raises:
            LetterUnreadable: Somebody wrote it without using the functions.
            LetterNotFound: No letter matches.
            LetterAmbiguous: Several letters match.
        """
        first, last = _range(prefix_or_id)
        # A whole id is a letter's id first, even if a hostile job has the same id.
        if first is not None and first == last and (letter := await self.get(first)):
            return letter
        async with self._database.connection() as connection:
            rows = await connection.fetch(_FIND, self._namespace, sanitise.key(prefix_or_id), first, last)
        if not rows:
            raise LetterNotFound(
                f"no dead letter {prefix_or_id[:80]!r}: give its id, 6 or more digits of it, or the job's id"
            )
        if len(rows) > 1:
            ids = ", ".join(str(row["id"]) for row in rows)
            raise LetterAmbiguous(f"more than one dead letter {prefix_or_id[:80]!r}, such as {ids}: give more digits")
        return DeadLetter.from_row(rows[0])

    async def list(
        self,
        *,
        limit: int = 50,
        include_replayed: bool = False,
        include_discarded: bool = False,
        after: DeadLetter | None = None,
        **wanted: Unpack[LetterFilter],
    ) -> builtins.list[DeadLetter]:
        """List letters, newest first; by default those that are undecided: neither replayed nor discarded.

        A letter whose replay has begun and is not finished counts as undecided. A letter that cannot be read is left
        out, and a warning in the log names it.

        Args:
            limit: The most letters to return.
            include_replayed: Include those whose replay is finished.
            include_discarded: Include those that were discarded.
            after: Continue after this letter, the last one of the previous page.
            wanted: A filter, see `LetterFilter`.
        """
        position = (None, None) if after is None else (after.dead_at, after.id)
        decided = (include_replayed, include_discarded)
        return _readable(await self._rows(*_parameters(**wanted), *decided, *position, limit))

    async def _rows(self, *parameters: object) -> builtins.list[Record]:
        async with self._database.connection() as connection:
            return await connection.fetch(_LIST, self._namespace, *parameters)

    async def headings(
        self,
        *,
        limit: int = 50,
        include_replayed: bool = False,
        include_discarded: bool = False,
        **wanted: Unpack[LetterFilter],
    ) -> builtins.list[LetterHeading]:
        """List letters as `list` does, but without the bodies, which are not even read."""
        decided = (include_replayed, include_discarded)
        async with self._database.connection() as connection:
            rows = await connection.fetch(_HEADINGS, self._namespace, *_parameters(**wanted), *decided, limit)
        return [LetterHeading.from_row(row) for row in rows]

    async def pages(
        self,
        *,
        limit: int | None = None,
        include_replayed: bool = False,
        include_discarded: bool = False,
        **wanted: Unpack[LetterFilter],
    ) -> AsyncIterator[builtins.list[DeadLetter]]:
        """Yield letters as `list` returns them, in pages, by default all; jobs that die meanwhile are left out."""
        filters = (*_parameters(**wanted), include_replayed, include_discarded)
        position: tuple[datetime | None, UUID | None] = (None, None)
        left = limit
        while left is None or left > 0:
            rows = await self._rows(*filters, *position, _PAGE if left is None else min(_PAGE, left))
            if not rows:
                return
            yield _readable(rows)
            before, position = position, (rows[-1]["dead_at"], rows[-1]["id"])
            if position == before:  # a time that cannot be sent as it was read; not written by the functions
                return
            left = None if left is None else left - len(rows)

    async def count(
        self,
        *,
        include_replayed: bool = False,
        include_discarded: bool = False,
        **wanted: Unpack[LetterFilter],
    ) -> int:
        """Return the number of letters that `list` would return without a limit."""
        filters = _parameters(**wanted)
        async with self._database.connection() as connection:
            count: int = await connection.fetchval(
                _COUNT, self._namespace, *filters, include_replayed, include_discarded, timeout=_MANY
            )
        return count

    async def undecided(self, *, limit: int | None = None, **wanted: Unpack[LetterFilter]) -> builtins.list[Undecided]:
        """Return the letters that `list` returns by default, but without their bodies and oldest first.

        Args:
            limit: Only this many of the newest; None: all.
            wanted: A filter, as in `list`.
        """
        filters = _parameters(**wanted)
        async with self._database.connection() as connection:
            rows = await connection.fetch(_UNDECIDED, self._namespace, *filters, limit, timeout=_MANY)
        return [Undecided(*row) for row in reversed(rows)]

    async def highest_sequences(self) -> dict[str, int]:
        """Return the highest stream sequence among the dead jobs of each queue, taken from their ids."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_HIGHEST, self._namespace)
        return {row["queue"]: row["sequence"] for row in rows}


def _readable(rows: builtins.list[Record]) -> builtins.list[DeadLetter]:
    letters = []
    for row in rows:
        try:
            letters.append(DeadLetter.from_row(row))
        except LetterUnreadable as error:
            logger.warning("%s; it is left out", error)
    return letters


def _range(prefix: str) -> tuple[UUID | None, UUID | None]:
    """Return the first and last id with this prefix: equal for a whole id, None twice for what cannot begin an id."""
    digits = prefix.lower().replace("-", "")
    if not _PREFIX.fullmatch(digits):
        return None, None
    return UUID(digits.ljust(_UUID_DIGITS, "0")), UUID(digits.ljust(_UUID_DIGITS, "f"))


def _parameters(
    *,
    tenant: str | None = None,
    type: str | None = None,  # noqa: A002 -- named like the column and the option it stands for
    reason: str | None = None,
    since: datetime | None = None,
    batch: str | None = None,
) -> tuple[str | datetime | None, ...]:
    """Return a `LetterFilter` as the first parameters, after the namespace, of all statements that filter.

    An unknown name is refused here: a filter that was silently left out would let every letter through.
    """
    of_tenant = None if tenant is None else sanitise.tenant(tenant)
    keys = (None if text is None else sanitise.key(text) for text in (type, reason))
    begin = None if since is None else sanitise.moment(since)
    return (of_tenant, *keys, begin, None if batch is None else sanitise.key(batch))
