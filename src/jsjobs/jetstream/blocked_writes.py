"""Writes that the server cannot store now, because a limit is reached or a disk is full: they wait, and say so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, Self, TypeVar

from jsjobs.jetstream.delivery import Delivery
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger
from jsjobs.trouble import Trouble

logger = get_logger("jsjobs.storage")

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_TELL_AFTER = 3
"""Writes in a row without an answer until that is told: a new leader takes a few seconds."""


class Lease(Protocol):
    """How long a delivery is this worker's."""

    ack_wait: float
    lease: float


class BlockedWrites:
    """The writes of one worker that wait for room.

    Args:
        lease: Of the deliveries that are kept alive meanwhile; None: none is.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self.lease = lease
        self._trouble = Trouble(logger, "nothing can be stored, jobs wait: %s", "what had to wait is stored again")
        self._waiting = 0

    @property
    def why(self) -> str:
        """What there is no room in, and what to do; empty while no write waits. Any thread may ask."""
        return self._trouble.why

    def begin(self, why: str) -> None:
        """One more write waits, for this reason."""
        self._waiting += 1
        self._trouble.say(why)

    def still(self, why: str) -> None:
        """A write goes on waiting."""
        self._trouble.say(why)

    def end(self) -> None:
        """One of them waits no more."""
        self._waiting -= 1
        if not self._waiting:
            self._trouble.over()


async def to_its_end(
    write: Callable[[BlockedWrite], Awaitable[T]],
    all_writes: BlockedWrites,
    delivery: Delivery | None,
    is_torn_down: Callable[[], bool],
) -> T:
    """Write, whatever cancels it that is not the end of the whole event loop.

    Args:
        write: Does it, over and over; safe to repeat.
        all_writes: Where it is told of while it waits for room.
        delivery: What is kept alive meanwhile.
        is_torn_down: Whether a cancellation is that of the whole loop.
    """
    # In a task of its own: a scope that a handler left behind may cancel this one at each turn of the loop.
    writing = asyncio.create_task(_write(write, all_writes, delivery))
    while True:
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError:
            if is_torn_down():
                writing.cancel()
                with suppress(BaseException):  # looked at, should it have ended in this moment
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
        """Begin to try."""
        return self

    def __exit__(self, *_: object) -> None:
        """It is stored, or somebody else decided, or it is given up."""
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
        """Go on after a write that was not answered though the server is there, and keep the delivery alive."""
        self._unanswered += 1
        if self._unanswered >= _TELL_AFTER:
            await self.no_room(why)
        else:
            await self._keep()

    async def _keep(self) -> None:
        """Renew the delivery while it is surely this worker's: else another worker would run the job a second time."""
        delivery, lease = self._delivery, self._all.lease
        if delivery is None or lease is None or delivery.lost:
            return
        age = delivery.age()
        if lease.ack_wait / 3 <= age < lease.lease:
            with suppress(JobError):  # tried again, until the lease is over
                await delivery.renew(max(0.1, lease.lease - age))
