"""Follow the partitions of the parallel lanes that exist: work new ones, leave removed ones, notice missing ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from jsjobs.jetstream.api.errors import IncompleteList
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.declaration import is_plausible, partition_faults
from jsjobs.jetstream.topology.partitions import Partitions, live_partitions
from jsjobs.model.errors import JobError
from jsjobs.poller import Poller
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.worker")

INTERVAL = 30.0
"""Seconds between two checks; a change of the partitions is announced, so they are rarely needed."""
FAST = 0.5
"""Seconds between two checks while something is missing."""
_PATIENCE = 3
"""Checks in a row that a cluster may answer only in part, as it does while leaders change."""
_APART = 0.1


class LaneIntake(Protocol):
    """Takes jobs of partitions."""

    @property
    def partitions(self) -> set[Partition]:
        """Return the partitions that this worker works."""
        ...

    def take_partition(self, partition: Partition) -> None:
        """Work a partition from now on."""
        ...

    def drop_partition(self, partition: Partition) -> None:
        """Work a partition no more."""
        ...

    def note_work(self, partition: Partition) -> None:
        """Note that a partition has jobs that wait."""
        ...


class LaneMonitor:
    """Check the partitions now and then, and when something is known to have changed."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        config: Config,
        intake: LaneIntake,
        ack_wait_is: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._names = names
        self._config = config
        self._intake = intake
        self._ack_wait_is = ack_wait_is
        self._poller = Poller(self._look_again, lambda: INTERVAL if self._is_calm else FAST)
        self._at_fault: set[str] = set()
        self._untold = 0
        self.why_not_ready = "the worker has not started"

    async def start(self) -> None:
        """Check for the partitions, then go on checking."""
        await self._try()
        self._poller.start()

    def look_soon(self) -> None:
        """Check as soon as possible: much may have changed, as after an outage."""
        self._poller.soon()

    async def stop(self) -> None:
        """Stop checking."""
        await self._poller.stop()

    async def _look_again(self) -> None:
        await self._try()
        await asyncio.sleep(_APART)

    async def _try(self) -> None:
        try:
            await self._look(await live_partitions(self._connection, self._names, self._config.priorities))
        except IncompleteList as error:
            self._untold += 1
            if self._untold > _PATIENCE:
                self._say(error.message)
        except JobError as error:
            self._say(f"the server cannot be asked: {error.message}")
        except Exception:
            logger.exception("the check of the parallel lanes failed; it is repeated")
            self._say("the check of the parallel lanes failed")

    async def _look(self, found: Partitions) -> None:
        self._untold = 0
        waits = [wait for info in found.values() if is_plausible("ack_wait", wait := info.config.ack_wait)]
        if waits:
            self._ack_wait_is(min(waits) / 1e9)
        for partition in self._intake.partitions - set(found):
            self._intake.drop_partition(partition)
        for partition in sorted(set(found) - self._intake.partitions, key=lambda one: one.consumer):
            self._intake.take_partition(partition)
        for partition, info in found.items():
            # A request that was made before its server was killed is forgotten there. Jobs that come back do not count
            # as pending, but as unacknowledged.
            if (info.num_pending or info.num_ack_pending) and not info.paused:
                self._intake.note_work(partition)
        faults = {
            one.consumer: partition_faults(self._config, self._names, one, found[one].config.as_told) for one in found
        }
        at_fault = {name for name, wrong in faults.items() if wrong} | set(self._missing(found))
        lasting = sorted(at_fault & self._at_fault)
        self._at_fault = at_fault
        if lasting:
            told = ", ".join(f"{name} ({', '.join(faults[name])})" if faults.get(name) else name for name in lasting)
            self._say(f"consumers are missing, or differ from their declaration: {told}; run `jsjobs streams apply`")
        elif not at_fault:
            self._say("")

    def _missing(self, found: Iterable[Partition]) -> Iterable[str]:
        """Yield the partitions that should be there: all below the highest one of each priority."""
        for priority in self._config.priorities:
            numbers = {one.number for one in found if one.priority is priority}
            for number in set(range(max(numbers, default=0) + 1)) - numbers:
                yield Partition(priority, number).consumer

    @property
    def _is_calm(self) -> bool:
        return not (self.why_not_ready or self._at_fault or self._untold)

    def _say(self, why_not_ready: str) -> None:
        if why_not_ready != self.why_not_ready:
            if why_not_ready:
                logger.warning("not ready: %s", why_not_ready)
            elif self.why_not_ready:
                logger.info("ready: jobs of every parallel lane reach this worker")
        self.why_not_ready = why_not_ready
