"""Waiting for others' locks: never for long, and with the name of who holds them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsjobs.postgres.database import Connection

# Every login may see these. A lock on a row comes with one on its table.
_HOLDERS = """
select distinct format('user %s (pid %s)', session.usename, held.pid) as holder
from pg_locks as held join pg_stat_activity as session using (pid)
where held.granted and held.pid <> pg_backend_pid()
    and held.database = (select oid from pg_database where datname = current_database())
    and (
        held.relation in (select oid from pg_class where relname in ('job_dlq', 'jsjobs_migrations'))
        or held.locktype = 'object' -- of functions and schemas, which a view may keep
    )
limit 3
"""
_HOLDERS_WITHIN = 2.0
_LONGEST_WAIT = 1.0
_ALL_WAITS = 3.0
_GAIN = 0.1
"""Seconds of waiting that are gained in each second."""


async def holders(connection: Connection) -> str:
    """Names the users and processes whose transactions have the tables in use, three at most."""
    rows = await connection.fetch(_HOLDERS, timeout=_HOLDERS_WITHIN)
    return ", ".join(row["holder"] for row in rows)


class Patience:
    """How long decisions wait for letters that others hold: a second each, three seconds in sum.

    Whoever may decide on one letter may hold a thousand: what waited in vain shortens the waits that follow.
    """

    def __init__(self) -> None:
        self._left = _ALL_WAITS
        self._seen = time.monotonic()

    @property
    def milliseconds(self) -> int:
        """What the next decision may wait; at least one."""
        now = time.monotonic()
        self._left = min(_ALL_WAITS, self._left + (now - self._seen) * _GAIN)
        self._seen = now
        return max(1, int(min(_LONGEST_WAIT, self._left) * 1000))

    def spend(self, milliseconds: int) -> None:
        """Notes that a decision waited so long in vain."""
        self._left = max(0.0, self._left - milliseconds / 1000)
