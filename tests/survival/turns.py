"""Watches the partitions of the parallel lanes: whether each has its turn, and no request stands beside jobs that wait."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.protocol.names import Partition
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import PARALLEL
from survival.nemesis import Stage

LOOKS_EVERY = 0.25
OTHERS = 25
"""Deliveries of a lane's other partitions, from which on a partition that had none has missed its turn."""


@dataclass
class Standing:
    """A partition that has jobs and was given none since."""

    at: tuple[datetime, int]
    since: float
    others: int
    """Deliveries of the other partitions of its lane until then."""
    asked_since: float
    """Since when a request stands there, too."""


@dataclass
class Turns:
    """What was seen so far."""

    stage: Stage
    missed: dict[str, float] = field(default_factory=dict)
    """Seconds for which a partition had jobs and was not served while others of its lane were, at most."""
    unanswered: dict[str, float] = field(default_factory=dict)
    """Seconds for which a request stood beside jobs that waited, at most."""
    _standing: dict[str, Standing] = field(default_factory=dict)

    def begin_silence(self) -> None:
        """Forget unanswered requests so far: a server that is hurt answers late."""
        self.unanswered.clear()
        self._standing.clear()

    async def watch(self) -> None:
        """Look until cancelled; what cannot be asked now says nothing."""
        names, connection = self.stage.names, self.stage.connection
        while True:
            for queue in PARALLEL:
                with suppress(JobError):
                    infos = [info async for info in list_consumers(connection, names.queue(queue))]
                    self._see([info for info in infos if Partition.of(info.name)], time.monotonic())
            await asyncio.sleep(LOOKS_EVERY)

    def _see(self, infos: list[ConsumerInfo], now: float) -> None:
        served = sum(info.delivered.consumer_seq for info in infos)
        for info in infos:
            name, at = info.name, (info.created, info.delivered.consumer_seq)
            others = served - info.delivered.consumer_seq
            before = self._standing.get(name)
            # A consumer that was created again counts from 1.
            if before is None or before.at != at or not info.num_pending or others < before.others:
                self._standing[name] = Standing(at, now, others, now)
                continue
            if others - before.others >= OTHERS:
                self.missed[name] = max(self.missed.get(name, 0.0), round(now - before.since, 2))
            if not info.num_waiting:
                before.asked_since = now
            self.unanswered[name] = max(self.unanswered.get(name, 0.0), round(now - before.asked_since, 2))

    def note(self) -> None:
        """Write down what was seen."""
        self.stage.journal.note("turns", missed=self.missed, unanswered=self.unanswered)
