"""A priority's queue and its shards, as they are shown."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from jsjobs.model.job import Priority


class _Load(BaseModel):
    """The jobs of a queue or a shard at one moment."""

    model_config = ConfigDict(frozen=True)

    waiting: int
    """Jobs that no worker has been given yet."""
    running: int
    """Jobs that a worker has; a shard has one at most."""
    retrying: int
    """Jobs that wait for their next attempt, or whose handler snoozed; each holds its shard."""
    redelivered: int
    """How many of the running and retrying ones were delivered more than once."""
    oldest_waiting_seconds: float | None
    """For how long the job that waits longest has waited; None if none waits."""
    paused: bool
    paused_until: datetime | None
    """When the pause ends; None if it lasts until somebody resumes the priority."""

    @property
    def unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        return self.waiting + self.running + self.retrying


class ShardStatus(_Load):
    """One shard of a queue: an ordered lane, in which one job runs at a time."""

    name: str
    """The name of its consumer, `<priority>-<generation>-<number>`."""
    generation: str
    """The generation it belongs to: `2x6` is the second one, of six shards."""
    is_next: bool
    """Whether it waits for older shards to be drained: the shard count is being changed."""
    has_worker: bool
    is_busy: bool
    """Whether it has workers, but none that takes another job now: all of them run as many as they may."""


class QueueStatus(_Load):
    """The queue of a priority, and the sums of its shards; it is paused if all shards that run are."""

    priority: Priority
    shards: tuple[ShardStatus, ...]

    @property
    def running_shards(self) -> tuple[ShardStatus, ...]:
        """Return the shards that run: all but those that wait for older ones to be drained."""
        return tuple(shard for shard in self.shards if not shard.is_next)

    @property
    def next_shards(self) -> tuple[ShardStatus, ...]:
        """Return the shards that wait for older ones to be drained; empty unless the shard count is being changed."""
        return tuple(shard for shard in self.shards if shard.is_next)
