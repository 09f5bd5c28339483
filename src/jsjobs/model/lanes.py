"""The lanes of a priority: its ordered shards, and the parallel lane for jobs without an entity."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from jsjobs.model.job import Priority

DEFAULT_PARTITIONS = 4


class Lane(StrEnum):
    """The two ways in which jobs of one priority run."""

    ORDERED = "ordered"
    """Jobs of one entity run one at a time, in the order submitted."""
    PARALLEL = "parallel"
    """Jobs without an entity run side by side."""


class Queue(NamedTuple):
    """The jobs of one priority and lane: they wait in a stream of their own."""

    priority: Priority
    lane: Lane = Lane.ORDERED

    @property
    def name(self) -> str:
        """Return its name: `normal`, or `normal-parallel`."""
        return self.priority.value if self.lane is Lane.ORDERED else f"{self.priority}-parallel"


QUEUES = tuple(Queue(priority, lane) for lane in Lane for priority in Priority)
"""All queues: the ordered ones first."""
ORDERED = tuple(queue for queue in QUEUES if queue.lane is Lane.ORDERED)
PARALLEL = tuple(queue for queue in QUEUES if queue.lane is Lane.PARALLEL)
