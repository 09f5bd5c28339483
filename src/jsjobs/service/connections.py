"""The connections of a service: opened once, closed together."""

from __future__ import annotations

from asyncio import _get_running_loop
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from jsjobs.cancellation import Shared
from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.protocol.names import Names
from jsjobs.local import here
from jsjobs.model.checks import checked_kind
from jsjobs.model.errors import JobError
from jsjobs.settings import Config
from jsjobs.telemetry.setup import find_telemetry

if TYPE_CHECKING:
    from jsjobs.jetstream.client.connection import Connection
    from jsjobs.operations.declared_schedules import Declaration
    from jsjobs.postgres.database import Database
    from jsjobs.service.session import Session
    from jsjobs.telemetry.recorder import Telemetry


class Connections:
    """The NATS connection, database, telemetry and handlers of one service; use it as an async context manager."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = checked_kind("the settings", config, Config) or here()
        self._names = Names(self.config.namespace)
        self._registry = Registry()
        self._declared: list[Declaration] = []
        self._session: Session | None = None
        self._opening: Shared | None = None
        self._database: Database | None = None
        self._telemetry: Telemetry | None = None

    def configure(self, config: Config) -> None:
        """Replace the settings, as a test does with its application's service.

        Raises:
            JobError: `Validation`, if the service is connected, or the namespace is invalid.
        """
        self._forget_what_is_gone()
        if self._session is not None:
            raise JobError.from_validation("the service is connected already: its settings cannot be changed now")
        self._names = Names(config.namespace)
        self.config = config

    def sibling(self) -> Self:
        """Return a second service with the same settings and handlers, and with connections of its own."""
        other = type(self)(self.config)
        other._registry, other._declared = self._registry, self._declared  # noqa: SLF001 - of the same class
        return other

    async def connect(self) -> None:
        """Connect to NATS.

        Postgres is connected only when it is needed. Whether telemetry is recorded is decided here. Several callers at
        once share one connection.

        From then on the service works in this event loop alone. Once the loop has ended, or in a process that was
        forked since, the service can be connected again.

        Raises:
            JobError: `RunnerUnavailable`, if no server can be reached or it is too old; `WrongLoop` (its reason is
                `Validation`), if the service is connected in another event loop.
        """
        self._forget_what_is_gone()
        if self._session is not None:
            self._session.connection.home.check()
            return
        if self._opening is None or not self._opening.is_usable():
            self._opening = Shared(self._open())
        await self._opening.result()

    async def _open(self) -> None:
        from jsjobs.jetstream.client.connect import connect
        from jsjobs.service.session import Session

        self._telemetry = find_telemetry(self.config.namespace)
        connection = await connect(self.config)
        if self._session is not None:  # another event loop was first
            await connection.close()
            self._session.connection.home.check()
        else:
            self._session = Session(connection, self.config, self._names, self._registry, self._telemetry)

    async def close(self) -> None:
        """Close every connection, and export the telemetry recorded so far.

        Raises:
            JobError: `WrongLoop` (its reason is `Validation`), if the service is connected in another event loop.
        """
        self._forget_what_is_gone()
        if self._opening is not None and self._opening.is_usable():
            with suppress(JobError):  # whoever connects gets to know it
                await self._opening.result()
        if self._session is not None:
            self._session.connection.home.check()
        try:
            if self._session is not None:
                await self._session.connection.close()
        finally:  # one that fails to close leaves no other open
            self._session = None
            try:
                if self._database is not None:
                    await self._database.close()
            finally:
                self._database = None
                if self._telemetry is not None:
                    await self._telemetry.flush()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def database(self) -> Database:
        """Return the database, which connects when it is first used.

        Raises:
            JobError: `Validation`, if no database is set or its URL cannot be read; `WrongLoop`, if the service is
                connected in another event loop than the one that runs here.
        """
        if self._session is not None and _get_running_loop() is not None:
            self._session.connection.home.check()
        if self._database is None or self._database.is_gone:
            from jsjobs.dead_letters.row import database_of

            self._database = database_of(self.config)
        return self._database

    def _forget_what_is_gone(self) -> None:
        """Drop the connections of an event loop that has ended, or of the parent process: nothing is left to close."""
        if self._session is not None and self._session.connection.home.is_gone:
            self._session = self._database = None

    @property
    def connection(self) -> Connection:
        """Return the connection to NATS, for what jsjobs itself builds on a service.

        Raises:
            JobError: `RunnerUnavailable`, if the service is not connected.
        """
        return self._connected.connection

    @property
    def _connected(self) -> Session:
        if self._session is None:
            raise JobError.from_runner_unavailable("the service is not connected: use `async with jobs:` or connect()")
        return self._session
