"""A checkup of the database: version, encoding, migrations, and what this user may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsjobs.postgres.migrate import pending

if TYPE_CHECKING:
    from jsjobs.postgres.database import Database

OLDEST_SERVER = 130_000
"""As in `server_version_num`: since Postgres 13 `gen_random_uuid` needs no extension."""
_SERVER = """
select current_setting('server_version_num')::int as server, current_setting('server_version') as version,
    current_setting('server_encoding') as encoding, current_user::text as "user",
    current_setting('transaction_read_only') = 'on' as read_only,
    coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as encrypted
"""
_RIGHTS = "select jsjobs_api.rights()"
# Rights that `deploy/postgres/roles.sql` and the migrations do not touch, and that a slip may have changed.
_TAMPERED = """
select format('%s has rights on the table %s', coalesce(grantee.rolname, 'public'), class.relname) as what
from pg_class as class
join pg_namespace as schema on schema.oid = class.relnamespace
cross join aclexplode(class.relacl) as granted
left join pg_roles as grantee on grantee.oid = granted.grantee
where schema.nspname = 'jsjobs_data' and granted.grantee <> class.relowner
union
select format('public may not call the function %s', function.proname)
from pg_proc as function join pg_namespace as schema on schema.oid = function.pronamespace
where schema.nspname = 'jsjobs_api' and not exists (
    select from aclexplode(coalesce(function.proacl, acldefault('f', function.proowner))) as granted
    where granted.grantee = 0
)
order by 1 limit 5
"""


@dataclass(frozen=True, slots=True)
class Checkup:
    """One database, as one user sees it."""

    server: int
    version: str
    encoding: str
    user: str
    read_only: bool
    encrypted: bool
    """Whether this connection is encrypted, as the server sees it."""
    pending: list[str]
    """Migrations that are missing."""
    rights: list[str]
    """What this user may do with dead letters: `store`, `read`, `decide`."""
    tampered: list[str]
    """Descriptions of rights on the tables that others were given, and of rights on functions that they lack."""


async def check_up(database: Database) -> Checkup:
    """Query the database for its checkup; nothing is changed.

    Raises:
        DatabaseUnavailable: Postgres is unavailable.
        SchemaTooNew: A newer jsjobs has migrated this database.
        DatabaseRefused: This user may not even ask.
    """
    missing = await pending(database)
    async with database.connection() as connection:
        row = await connection.fetchrow(_SERVER)
        assert row is not None
        # Without the functions there is nothing to have rights to.
        rights = [] if missing else await connection.fetchval(_RIGHTS)
        tampered = [] if missing else [each["what"] for each in await connection.fetch(_TAMPERED)]
    return Checkup(**dict(row), pending=missing, rights=rights, tampered=tampered)
