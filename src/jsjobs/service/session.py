"""What a connected service works with: each part is made when it is first needed, and shared from then on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.settings import Config

if TYPE_CHECKING:
    from jsjobs.jetstream.api.server_clock import ServerClock
    from jsjobs.jetstream.jobs.queue import JobQueue
    from jsjobs.jetstream.topology.pause import Pausing
    from jsjobs.jetstream.tracking.batches import Batches
    from jsjobs.jetstream.tracking.lookup import Lookup
    from jsjobs.jetstream.tracking.waiter import JobWaiter
    from jsjobs.operations.compose import Composer
    from jsjobs.operations.periodic_schedules import Scheduler
    from jsjobs.operations.queues import Queues
    from jsjobs.operations.submit import Publisher
    from jsjobs.telemetry.recorder import Telemetry


@dataclass(frozen=True)
class Session:
    """One connection of a service, and what works over it."""

    connection: Connection
    config: Config
    names: Names
    registry: Registry
    telemetry: Telemetry | None

    @cached_property
    def publisher(self) -> Publisher:
        """Return what submits jobs."""
        from jsjobs.jetstream.schedules.delayed import Debounced, Delayed
        from jsjobs.operations.submit import Publisher

        config, connection, names = self.config, self.connection, self.names
        return Publisher(
            self.queue,
            Delayed(connection, names, timeout=config.timeout, duplicate_window=config.duplicate_window),
            Debounced(connection, names, timeout=config.timeout, result_ttl=config.result_ttl),
            self.composer,
            self.batches,
            self.clock,
            self.telemetry,
        )

    @cached_property
    def queue(self) -> JobQueue:
        """Return what publishes into the queues."""
        from jsjobs.jetstream.jobs.queue import JobQueue

        return JobQueue(self.connection, self.names, timeout=self.config.timeout)

    @cached_property
    def composer(self) -> Composer:
        """Return what makes messages of submitted jobs."""
        from jsjobs.jetstream.jobs.lease_time import LeaseTime
        from jsjobs.operations.compose import Composer

        return Composer(self.queue, self.registry, LeaseTime(self.config.ack_wait).lease)

    @cached_property
    def batches(self) -> Batches:
        """Return the records of batches."""
        from jsjobs.jetstream.tracking.batches import Batches

        config = self.config
        return Batches(self.connection, self.names, result_ttl=config.result_ttl, timeout=config.timeout)

    @cached_property
    def clock(self) -> ServerClock:
        """Return the server's clock."""
        from jsjobs.jetstream.api.server_clock import ServerClock

        return ServerClock(self.connection, self.names)

    @cached_property
    def scheduler(self) -> Scheduler:
        """Return the periodic schedules."""
        from jsjobs.jetstream.schedules.periodic import Periodic
        from jsjobs.operations.periodic_schedules import Scheduler

        periodic = Periodic(self.connection, self.names, timeout=self.config.timeout)
        return Scheduler(periodic, self.queue, self.composer, self.names)

    @cached_property
    def lookup(self) -> Lookup:
        """Return what looks jobs up."""
        from jsjobs.jetstream.jobs.state_store import StateStore
        from jsjobs.jetstream.tracking.lookup import Lookup

        return Lookup(self.connection, self.names, StateStore(self.connection, self.names))

    @property
    def waiter(self) -> JobWaiter:
        """Return what waits for the ends of jobs.

        Raises:
            JobError: `WrongLoop` (its reason is `Validation`), if the connection belongs to another event loop.
        """
        self.connection.home.check()  # before anybody of this loop stands in the table of that one
        return self._waiter

    @cached_property
    def _waiter(self) -> JobWaiter:
        from jsjobs.jetstream.tracking.waiter import JobWaiter

        return JobWaiter(self.connection, self.names)

    @cached_property
    def queues(self) -> Queues:
        """Return the queues, as they are shown."""
        from jsjobs.operations.queues import Queues

        return Queues(self.connection, self.names)

    @cached_property
    def pausing(self) -> Pausing:
        """Return what pauses and resumes priorities."""
        from jsjobs.jetstream.topology.pause import Pausing

        return Pausing(self.connection, self.names)
