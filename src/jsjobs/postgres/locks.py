"""Wait for others' locks: never for long, and with the names of those who hold them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# Every login may see these. Calls wait only for strong locks, and for sessions queued for one before them. A session
# that merely reads holds up only a migration, and sessions that wait for such a lock.
_HOLDERS = """
with ours as (
    select held.pid, held.granted, held.mode from pg_locks as held
    where held.pid <> pg_backend_pid()
        and held.database = (select oid from pg_database where datname = current_database())
        and (
            held.relation in (select oid from pg_class where relname in ('job_dlq', 'jsjobs_migrations'))
            or held.locktype = 'object' -- of functions and schemas, which a view may keep
        )
),
strong as (
    select pid, granted from ours
    where mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
),
blocking as (
    select pid, 1 as place from strong where granted
    union all select unnest(pg_blocking_pids(pid)), 2 from strong where not granted
    union all select pid, 3 from strong where not granted
    union all select pid, 4 from ours where granted and $1
)
select format('user %s (pid %s)', session.usename, pid) as holder
from (select pid, min(place) as place from blocking group by pid) as each
join pg_stat_activity as session using (pid)
order by place, pid limit 3
"""
_OF_LETTER = "select holder from jsjobs_api.holders($1, $2, $3) as holder"
_HOLDERS_WITHIN = 2.0
_LONGEST_WAIT = 1.0
_ALL_WAITS = 3.0
_GAIN = 0.1
"""Seconds of waiting that become available again in each second."""


class Wanted(NamedTuple):
    """The locks a statement may wait for beside the tables' own: a letter's row, or all other use of the tables."""

    namespace: str = ""
    letter_id: UUID | None = None
    job_id: str | None = None
    alone: bool = False


async def holders(connection: Connection, wanted: Wanted) -> str:
    """Return the users and processes whose transactions hold it, three at most; empty where that cannot be told."""
    if wanted.namespace:
        rows = await connection.fetch(_OF_LETTER, *wanted[:3], timeout=_HOLDERS_WITHIN)
        if rows:
            return ", ".join(row["holder"] for row in rows)
    rows = await connection.fetch(_HOLDERS, wanted.alone, timeout=_HOLDERS_WITHIN)
    return ", ".join(row["holder"] for row in rows)


class Patience:
    """The time that decisions may wait for letters held by others: a second each, three seconds in total.

    Somebody who may decide on one letter may hold a thousand of them: each wait in vain shortens those that follow.
    """

    def __init__(self) -> None:
        self._left = _ALL_WAITS
        self._seen = time.monotonic()

    @property
    def milliseconds(self) -> int:
        """Return how many milliseconds the next decision may wait; at least one."""
        now = time.monotonic()
        self._left = min(_ALL_WAITS, self._left + (now - self._seen) * _GAIN)
        self._seen = now
        return max(1, int(min(_LONGEST_WAIT, self._left) * 1000))

    def spend(self, milliseconds: int) -> None:
        """Record that a decision waited this long in vain."""
        self._left = max(0.0, self._left - milliseconds / 1000)
