"""What the database says of itself: version, encoding, migrations, and what this user may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsjobs.postgres.migrate import pending

if TYPE_CHECKING:
    from jsjobs.postgres.database import Database

OLDEST_SERVER = 130_000
"""As `server_version_num` has it: `gen_random_uuid` needs no extension since Postgres 13."""
_NEEDED = ("select", "insert", "update")
_SERVER = """
select current_setting('server_version_num')::int as server, current_setting('server_version') as version,
    current_setting('server_encoding') as encoding, current_user::text as "user",
    current_setting('transaction_read_only') = 'on' as read_only,
    coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as encrypted
"""
_RIGHT = "select has_any_column_privilege('job_dlq', $1)"  # the shipped roles have rights on columns


@dataclass(frozen=True, slots=True)
class Checkup:
    """One database, as one user sees it."""

    server: int
    version: str
    encoding: str
    user: str
    read_only: bool
    encrypted: bool
    """Whether this connection is, as the server sees it."""
    pending: list[str]
    """Migrations that are missing."""
    lacking: list[str]
    """What this user may not do with `job_dlq`."""


async def check_up(database: Database) -> Checkup:
    """Ask it; nothing is changed.

    Raises:
        DatabaseUnavailable: Postgres is away.
        SchemaTooNew: A newer jsjobs has migrated this database.
        DatabaseRefused: This user may not even ask.
    """
    missing = await pending(database)
    async with database.connection() as connection:
        row = await connection.fetchrow(_SERVER)
        assert row is not None
        # Without the table there is nothing to have rights on.
        lacking = [] if missing else [right for right in _NEEDED if not await connection.fetchval(_RIGHT, right)]
    return Checkup(**dict(row), pending=missing, lacking=lacking)
