"""Decide which shard has its turn when more shards have work than a worker may run at once.

A slot is room for one running job. Critical shards come first, and none starves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from jsjobs.jetstream.protocol.names import Shard
from jsjobs.model.job import Priority

WEIGHTS = {Priority.CRITICAL: 8, Priority.HIGH: 4, Priority.NORMAL: 2, Priority.LOW: 1}
"""The turns that a busy shard of each priority gets for each turn of a low one."""


class Slots(Protocol):
    """Hand out the slots of a worker."""

    def took(self) -> None:
        """Note that a slot is taken."""

    def left(self) -> None:
        """Note that a slot is free."""

    def ask(self, shard: Shard, begin: Callable[[], None]) -> SlotRequest:
        """Ask for a slot; `begin` is called when it is the shard's turn."""

    def withdraw(self, request: SlotRequest) -> None:
        """Withdraw a request for a slot."""

    def make_way(self, shard: Shard, attempt: int) -> bool:
        """Return whether to give a delivery back, so that another process can run it."""


class Slot:
    """The right of one delivery to have its handler run, which it may leave for a while."""

    __slots__ = ("_request", "_shard", "_slots", "is_taken")

    def __init__(self, slots: Slots, shard: Shard, *, is_taken: bool) -> None:
        self._slots = slots
        self._shard = shard
        self._request: SlotRequest | None = None
        self.is_taken = is_taken

    def leave(self) -> None:
        """Give up the slot, or the request for it: the delivery waits for something else, or is done with."""
        if self.is_taken:
            self.is_taken = False
            self._slots.left()
        elif self._request is not None:
            self._slots.withdraw(self._request)
            self._request = None

    def wait(self) -> asyncio.Future[None]:
        """Ask for the slot again; the future is done once it is taken, and takes none if it was cancelled."""
        had: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = self._slots.ask(self._shard, partial(self._take, had))
        return had

    def _take(self, had: asyncio.Future[None]) -> None:
        self._request = None
        if not had.done():
            self.is_taken = True
            self._slots.took()
            had.set_result(None)

    def make_way(self, attempt: int) -> bool:
        """Return whether to give the delivery back, so that another process can run it; it does not come here again."""
        return self._slots.make_way(self._shard, attempt)


class SlotRequest:
    """A shard that has work for the next free slot."""

    __slots__ = ("begin", "shard", "since")

    def __init__(self, shard: Shard, since: float, begin: Callable[[], None]) -> None:
        self.shard = shard
        self.since = since
        """The time since which it has had work and no turn."""
        self.begin = begin
        """Called when it has its turn."""


def first(requests: Iterable[SlotRequest], now: float) -> SlotRequest:
    """Return the request that has waited longest; a critical shard's second counts as much as eight of a low one's."""
    return max(requests, key=lambda request: WEIGHTS[request.shard.priority] * (now - request.since))


class Patience:
    """The time to wait for a job of a shard that was just subscribed to; it adapts to the connection."""

    def __init__(self) -> None:
        self._usual = 0.025

    @property
    def seconds(self) -> float:
        """Return the seconds after which a shard counts as empty: another process took its job."""
        return min(2.0, max(0.01, 4 * self._usual))

    def learn(self, seconds: float) -> None:
        """Learn from a job that came after some seconds, in time or a bit late."""
        if seconds > self._usual:
            self._usual = min(seconds, 0.5)
        else:
            self._usual += 0.1 * (seconds - self._usual)
