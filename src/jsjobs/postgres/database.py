"""A pool of connections to Postgres; its outages reach the caller as one kind of error."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import asyncpg

from jsjobs.home_loop import HomeLoop
from jsjobs.postgres.errors import (
    DatabaseError,
    DatabaseExhausted,
    DatabaseRefused,
    DatabaseSilent,
    DatabaseUnavailable,
    InvalidDatabaseUrl,
    SchemaMissing,
    TablesLocked,
)
from jsjobs.postgres.locks import Connection, Patience, Wanted, holders
from jsjobs.postgres.url import place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType


_TABLES = Wanted()
_MAX_CONNECTIONS = 8
CONNECT_TIMEOUT = 5.0
"""Seconds that opening a new connection may take."""
_COMMAND_TIMEOUT = 10.0
# Seconds to wait for a free connection, and to give one back.
_ACQUIRE_TIMEOUT = 10.0

_AWAY = (
    OSError,  # includes TimeoutError and TLS errors
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the connection broke off within a message
    asyncpg.OperatorInterventionError,  # starting up, shutting down, killed by an administrator, statement timeout
    asyncpg.TransactionRollbackError,
    # An operator corrects a password, or creates a missing database, while workers go on.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_EXHAUSTED = (
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.ReadOnlySQLTransactionError,  # a primary that became a standby
)


class Database:
    """A small, lazy pool of connections that survives outages of the server.

    It connects only when a connection is needed, so a program starts even while Postgres is down. After an outage the
    next operation connects again: nobody has to reconnect.
    """

    def __init__(self, url: str, *, command_timeout: float = _COMMAND_TIMEOUT) -> None:
        """Check the URL, without connecting to anything.

        Args:
            url: `postgresql://user:password@host:port/database`; the `PG*` variables provide the parts it leaves out.
            command_timeout: Seconds after which a statement counts as unanswered.

        Raises:
            InvalidDatabaseUrl: A `ValueError` that says what is wrong without quoting the URL.
        """
        self.place = place(url)
        self._url = url
        self._command_timeout = command_timeout
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._closed = False
        self._home: HomeLoop | None = None
        self.patience = Patience()

    async def connect(self) -> None:
        """Open the pool, also after a `close()`; this does not contact the server, so no outage makes it fail."""
        self._closed = False
        await self._open()

    async def close(self) -> None:
        """Close all connections; those still busy after a few seconds are closed by force."""
        if self.is_gone:
            return
        if self._home is not None:
            self._home.check()
        self._closed = True
        pool, self._pool, self._home = self._pool, None, None
        if pool is None:
            return
        # A pool that cannot close gracefully has already cut its connections when it raises.
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await pool.close()

    @property
    def is_gone(self) -> bool:
        """Return whether its connections belong to an event loop that has ended, or to the process that forked this."""
        return self._home is not None and self._home.is_gone

    async def __aenter__(self) -> Self:
        """Open the pool."""
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        await self.close()

    @asynccontextmanager
    async def connection(self, wanted: Wanted = _TABLES) -> AsyncIterator[Connection]:
        """Lend a connection; what asyncpg raises inside is translated into one of this package's errors.

        Args:
            wanted: What the statement may have to wait for; the error then names who holds it.

        Raises:
            DatabaseUnavailable: Postgres cannot serve this now: wait, then try again.
            DatabaseSilent: The same, because no answer came.
            DatabaseExhausted: The same, and Postgres said so itself.
            TablesLocked: The same, while another transaction holds what is asked for; the error names its user.
            SchemaMissing: A table, column or function is missing.
            DatabaseRefused: Postgres refused for another reason.
            WrongLoop: This is not the event loop in which the pool was opened.
        """
        if self._home is not None:
            self._home.check()
        try:
            pool = self._pool or await self._open()
            async with pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
                try:
                    yield connection
                except Exception as error:
                    # Never lend it again: it may be half open, or lead to a server that is now read-only.
                    if _is_away(error):
                        connection.terminate()
                    raise
        except asyncpg.LockNotAvailableError as error:
            raise TablesLocked(self.place, await self._holders(wanted)) from error
        except Exception as error:
            translated = self._translated(error)
            if translated is None:
                raise
            raise translated from error

    async def _holders(self, wanted: Wanted) -> str:
        with suppress(Exception):  # without names the error is the same
            async with (await self._open()).acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
                return await holders(connection, wanted)
        return ""

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._closed:
            raise DatabaseUnavailable(f"the connection to Postgres at {self.place} was closed by this program")
        if self._pool is None:
            self._home = HomeLoop(self)
            # With no minimum this connects to nothing. So it never waits, and no other task can run in between.
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=_MAX_CONNECTIONS,
                timeout=CONNECT_TIMEOUT,
                command_timeout=self._command_timeout,
                # Poolers such as PgBouncer do not keep prepared statements. Also, each plan then sees its parameters,
                # so a filter that is not used costs nothing.
                statement_cache_size=0,
            )
        return self._pool

    def _translated(self, error: Exception) -> DatabaseError | None:
        if isinstance(error, asyncpg.ClientConfigurationError):
            return InvalidDatabaseUrl(_one_line(error))
        if isinstance(
            error,
            asyncpg.UndefinedTableError
            | asyncpg.UndefinedColumnError
            | asyncpg.UndefinedFunctionError
            | asyncpg.InvalidSchemaNameError,
        ):
            return SchemaMissing(self.place)
        if isinstance(error, _EXHAUSTED):
            return DatabaseExhausted(f"Postgres at {self.place} can take nothing now: {_one_line(error)}")
        if isinstance(error, TimeoutError) and not str(error):
            return DatabaseSilent(self.place)
        if _is_away(error):
            return DatabaseUnavailable(f"Postgres at {self.place} is not available: {_one_line(error)}")
        if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
            return DatabaseRefused(f"Postgres at {self.place} refused: {_one_line(error)}")
        return None


def _is_away(error: Exception) -> bool:
    # An interface error that is also a ValueError is about what was sent; any other one is about the connection.
    lost = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    return lost or isinstance(error, _AWAY + _EXHAUSTED)


def _one_line(error: Exception) -> str:
    # The first argument of a Postgres error is its message, without DETAIL and HINT, which quote values.
    text = str(error.args[0]) if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError) else str(error)
    lines = text.splitlines()
    return lines[0] if lines else type(error).__name__
