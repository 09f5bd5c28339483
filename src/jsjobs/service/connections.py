"""What a service is connected to: opened once, closed together."""

from __future__ import annotations

from asyncio import _get_running_loop
from typing import TYPE_CHECKING, Self

from jsjobs.jetstream.subjects import Names
from jsjobs.local import here
from jsjobs.model.checks import checked_kind
from jsjobs.model.errors import JobError
from jsjobs.settings import Config
from jsjobs.telemetry.switch import find_telemetry
from jsjobs.worker.registry import Registry

if TYPE_CHECKING:
    from jsjobs.declaring import Declaration
    from jsjobs.jetstream.connection import Connection
    from jsjobs.jetstream.server_clock import ServerClock
    from jsjobs.postgres.database import Database
    from jsjobs.telemetry.recorder import Telemetry


class Connections:
    """NATS, Postgres, telemetry and handlers of one service; use it as an async context manager."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = checked_kind("the settings", config, Config) or here()
        self._names = Names(self.config.namespace)
        self._registry = Registry()
        self._declared: list[Declaration] = []
        self._connection: Connection | None = None
        self._shared_clock: tuple[Connection, ServerClock] | None = None
        self._database: Database | None = None
        self._telemetry: Telemetry | None = None

    def configure(self, config: Config) -> None:
        """Take other settings, as a test does with a service that its application made.

        Raises:
            JobError: `Validation`, if it is connected, or the namespace cannot be one.
        """
        self._forget_what_is_gone()
        if self._connection is not None:
            raise JobError.from_validation("the service is connected already: its settings cannot be changed now")
        self._names = Names(config.namespace)
        self.config = config

    def sibling(self) -> Self:
        """Another service with the same settings and handlers, and connections of its own."""
        other = type(self)(self.config)
        other._registry, other._declared = self._registry, self._declared  # noqa: SLF001 - of the same class
        return other

    async def connect(self) -> None:
        """Connect to NATS; Postgres is asked only when it is needed. Whether there is telemetry is decided here.

        From then on the service works in this event loop alone. Once that has ended, or in a process that was forked
        since, it can be connected again.

        Raises:
            JobError: `RunnerUnavailable`, if no server can be reached or it is too old; `WrongLoop` (its reason is
                `Validation`), if it is connected in another event loop.
        """
        self._forget_what_is_gone()
        if self._connection is not None:
            self._connection.home.check()
        else:
            from jsjobs.jetstream.connect import connect

            self._telemetry = find_telemetry(self.config.namespace)
            self._connection = await connect(self.config)

    async def close(self) -> None:
        """Close every connection, and export what telemetry was recorded.

        Raises:
            JobError: `WrongLoop` (its reason is `Validation`), if it is connected in another event loop.
        """
        self._forget_what_is_gone()
        if self._connection is not None:
            self._connection.home.check()
        try:
            if self._connection is not None:
                await self._connection.close()
        finally:  # what the one cannot do keeps no other open
            self._connection = None
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
        """The database, opened when it is first asked.

        Raises:
            JobError: `Validation`, if none is set or its URL cannot be read; `WrongLoop`, if the service is connected
                in another event loop than the one that runs here.
        """
        if self._connection is not None and _get_running_loop() is not None:
            self._connection.home.check()
        if self._database is None or self._database.is_gone:
            from jsjobs.dead_letters.table import database_of

            self._database = database_of(self.config)
        return self._database

    def _forget_what_is_gone(self) -> None:
        """Drop the connections of a loop that has ended, or of the parent's: there is nothing to be closed."""
        if self._connection is not None and self._connection.home.is_gone:
            self._connection = self._database = None

    def _clock(self) -> ServerClock:
        """The server's clock, one for each connection."""
        connection = self.connection
        if self._shared_clock is None or self._shared_clock[0] is not connection:
            from jsjobs.jetstream.server_clock import ServerClock

            self._shared_clock = connection, ServerClock(connection, self._names)
        return self._shared_clock[1]

    @property
    def connection(self) -> Connection:
        """The connection to NATS, for what jsjobs itself builds upon a service.

        Raises:
            JobError: `RunnerUnavailable`, if the service is not connected.
        """
        if self._connection is None:
            raise JobError.from_runner_unavailable("the service is not connected: use `async with jobs:` or connect()")
        return self._connection
