"""Writes that the server cannot store now, because a limit is reached or a disk is full: they wait, and say so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, Self, TypeVar

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger
from jsjobs.trouble import Trouble

logger = get_logger("jsjobs.storage")

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_TELL_AFTER = 3
"""Number of unanswered writes in a row before a warning: a new leader takes a few seconds."""


class Lease(Protocol):
    """The time in which a delivery is surely this worker's."""

    ack_wait: float
    lease: float


class BlockedWrites:
    """The writes of one worker that wait for room.

    Args:
        lease: The lease of the deliveries that are kept alive meanwhile; None: none is.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self.lease = lease
        self._trouble = Trouble(logger, "nothing can be stored, jobs wait: %s", "jobs can be stored again")
        self._waiting = 0

    @property
    def why(self) -> str:
        """Return what has no room left and what to do; empty while no write waits.

        Any thread may ask.
        """
        return self._trouble.why

    def begin(self, why: str) -> None:
        """Count one more waiting write, with its reason."""
        self._waiting += 1
        self._trouble.say(why)

    def still(self, why: str) -> None:
        """Report that a write is still waiting."""
        self._trouble.say(why)

    def end(self) -> None:
        """Count one waiting write less."""
        self._waiting -= 1
        if not self._waiting:
            self._trouble.over()


async def to_its_end(
    write: Callable[[BlockedWrite], Awaitable[T]],
    all_writes: BlockedWrites,
    delivery: Delivery | None,
    is_torn_down: Callable[[], bool],
) -> T:
    """Write to the end, despite any cancellation but the end of the whole event loop.

    Args:
        write: Writes, again and again; must be safe to repeat.
        all_writes: The waiting writes, to which this one belongs while it waits for room.
        delivery: The delivery to keep alive meanwhile.
        is_torn_down: Returns whether a cancellation comes from the end of the event loop.
    """
    # In a task of its own: a scope that a handler left behind may cancel this one at each turn of the loop.
    writing = asyncio.create_task(_write(write, all_writes, delivery))
    while True:
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError:
            if is_torn_down():
                writing.cancel()
                with suppress(BaseException):  # retrieve its exception, should it have ended at this moment
                    writing.exception()
                raise
        if writing.done():
            if not writing.cancelled() or is_torn_down():
                return writing.result()
            writing = asyncio.create_task(_write(write, all_writes, delivery))


async def _write(
    write: Callable[[BlockedWrite], Awaitable[T]], all_writes: BlockedWrites, delivery: Delivery | None
) -> T:
    with BlockedWrite(all_writes, delivery) as blocked:
        return await write(blocked)


class BlockedWrite:
    """One write that is tried again and again; a context manager around its tries."""

    def __init__(self, all_writes: BlockedWrites, delivery: Delivery | None) -> None:
        self._all = all_writes
        self._delivery = delivery
        self._is_told = False
        self._unanswered = 0
        self._pause = _FIRST_PAUSE

    def __enter__(self) -> Self:
        """Begin the tries."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the tries: the entry is stored, somebody else decided, or the write is given up."""
        if self._is_told:
            self._all.end()

    async def no_room(self, why: str) -> None:
        """Wait after a refusal, longer each time, and keep the delivery alive."""
        if self._is_told:
            self._all.still(why)
        else:
            self._is_told = True
            self._all.begin(why)
        lease = self._all.lease
        longest = _LONGEST_PAUSE if lease is None else min(_LONGEST_PAUSE, lease.ack_wait / 6)
        await self._keep()
        await asyncio.sleep(self._pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads a herd
        self._pause = min(2 * self._pause, longest)

    async def no_answer(self, why: str) -> None:
        """Go on after a write that got no answer from a reachable server, and keep the delivery alive."""
        self._unanswered += 1
        if self._unanswered >= _TELL_AFTER:
            await self.no_room(why)
        else:
            await self._keep()

    async def _keep(self) -> None:
        """Renew the delivery while it is surely this worker's: otherwise another worker would run the job again."""
        delivery, lease = self._delivery, self._all.lease
        if delivery is None or lease is None or delivery.lost:
            return
        age = delivery.age()
        if lease.ack_wait / 3 <= age < lease.lease:
            with suppress(JobError):  # tried again, until the lease is over
                await delivery.renew(max(0.1, lease.lease - age))
