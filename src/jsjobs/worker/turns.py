"""Whose turn it is, where more shards have work than a worker may run at once: critical ones first, none starves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jsjobs.jetstream.subjects import Shard
from jsjobs.model.job import Priority

WEIGHTS = {Priority.CRITICAL: 8, Priority.HIGH: 4, Priority.NORMAL: 2, Priority.LOW: 1}
"""Of all busy shards, one of a priority gets so many turns for each of a low one."""


class Claimant:
    """A shard that has work for the next free place."""

    __slots__ = ("begin", "shard", "since")

    def __init__(self, shard: Shard, since: float, begin: Callable[[], None]) -> None:
        self.shard = shard
        self.since = since
        """Since when it has had work and no turn."""
        self.begin = begin
        """Called when it has its turn."""


def first(claimants: Iterable[Claimant], now: float) -> Claimant:
    """The one that has waited longest, a second of a critical shard counting as much as eight of a low one."""
    return max(claimants, key=lambda claimant: WEIGHTS[claimant.shard.priority] * (now - claimant.since))


class Patience:
    """How long to wait for the job of a shard that was just subscribed to, as the connection turns out to be."""

    def __init__(self) -> None:
        self._usual = 0.025

    @property
    def seconds(self) -> float:
        """After which the shard has nothing: another process took it."""
        return min(2.0, max(0.01, 4 * self._usual))

    def learn(self, seconds: float) -> None:
        """A job came after so many seconds: soon enough, or a bit late."""
        if seconds > self._usual:
            self._usual = min(seconds, 0.5)
        else:
            self._usual += 0.1 * (seconds - self._usual)
