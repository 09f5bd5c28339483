"""Check Postgres, which holds the table of dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.dead_letters.row import database_of
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.postgres.checkup import OLDEST_SERVER, Checkup, check_up
from jsjobs.postgres.errors import (
    DatabaseError,
    DatabaseExhausted,
    DatabaseSilent,
    DatabaseUnavailable,
    SchemaTooNew,
    TablesLocked,
)
from jsjobs.postgres.url import is_local
from jsjobs.settings import Config


async def look(config: Config) -> AsyncIterator[Finding]:
    """Check that the database can be reached, and that a router with this user could store letters.

    Raises:
        JobError: `Validation`, if the database's URL cannot be read.
    """
    if config.database_url is None:
        what = "no database is set here: the dead-letter table is not checked"
        yield Finding(
            "database", Severity.NOTE, what, "DATABASE_URL", "set DATABASE_URL to the one that the routers use"
        )
        return
    async with database_of(config) as database:
        try:
            found = await check_up(database)
        except SchemaTooNew as error:
            yield Finding("database", Severity.PROBLEM, str(error), database.place, "update jsjobs here")
            return
        except DatabaseError as error:
            remedy = f"{_remedy(error)}; dead letters are pending meanwhile"
            yield Finding("database", Severity.PROBLEM, str(error), database.place, remedy)
            return
        for finding in judged(found, database.place):
            yield finding


def _remedy(error: DatabaseError) -> str:
    if isinstance(error, DatabaseExhausted):
        return "make room on its disk, raise max_connections, or set DATABASE_URL to the primary"
    if isinstance(error, TablesLocked | DatabaseSilent):
        return "start it if it is not running, or end the session that blocks it"
    if isinstance(error, DatabaseUnavailable):
        return "start it, or set DATABASE_URL"
    return "grant this user the missing right"


def judged(found: Checkup, place: str) -> list[Finding]:
    """Return the findings about a database that answered."""
    told = []
    if found.server < OLDEST_SERVER:
        what, remedy = f"Postgres {found.version} is too old", f"upgrade it to {OLDEST_SERVER // 10_000} or later"
        told.append(Finding("database", Severity.PROBLEM, what, place, remedy))
    if found.encoding != "UTF8":
        what, remedy = f"its encoding is {found.encoding}", "create the database again with encoding UTF8"
        told.append(Finding("database", Severity.PROBLEM, what, place, remedy))
    if found.pending:
        what = f"migrations are missing: {', '.join(found.pending)}; dead letters are pending"
        told.append(Finding("database", Severity.PROBLEM, what, place, "jsjobs db migrate"))
    elif "store" not in found.rights:
        may = f"may {' and '.join(found.rights)} letters alone" if found.rights else "may do nothing with dead letters"
        what = f"user {found.user} {may}: as a router it could not store any"
        remedy = "grant jsjobs_router to it (deploy/postgres/roles.sql), or run this as the routers' user"
        told.append(Finding("database", Severity.WARNING, what, place, remedy))
    for each in found.tampered:
        remedy = "run deploy/postgres/roles.sql as the tables' owner"
        told.append(Finding("database", Severity.PROBLEM, each, place, remedy))
    if found.read_only:
        what = "it takes no writes: it is a standby, or read-only"
        told.append(Finding("database", Severity.PROBLEM, what, place, "set DATABASE_URL to the primary"))
    if not found.encrypted and not is_local(place):
        what = "the connection is not encrypted: others on the network can read passwords and payloads, and change them"
        remedy = "end DATABASE_URL with ?sslmode=verify-full, and sslrootcert=FILE for your own certificate authority"
        told.append(Finding("database", Severity.WARNING, what, place, remedy))
    if not told:
        what = f"Postgres {found.version} at {place}, migrated, user {found.user} may store letters"
        told.append(Finding("database", Severity.OK, what, ""))
    return told
