"""Count the slots of a worker process, and decide whose turn the next free one is. Both lanes share them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial

from jsjobs.model.job import Priority

WEIGHTS = {Priority.CRITICAL: 4, Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1}
"""The slots that a busy priority gets for each slot of a low one, while more jobs wait than there are slots."""
_RANK = {priority: rank for rank, priority in enumerate(Priority)}


class Turns:
    """Share slots among the priorities that have work, by weight: of ten slots in a row 4, 3, 2 and 1."""

    def __init__(self) -> None:
        self._credit = dict.fromkeys(Priority, 0)

    def next(self, busy: Iterable[Priority]) -> Priority:
        """Return the priority whose turn it is; call `took` once it has its slot."""
        return max(busy, key=lambda one: (self._credit[one] + WEIGHTS[one], -_RANK[one]))

    def took(self, priority: Priority, busy: Collection[Priority]) -> None:
        """Note that a priority has had its turn.

        Args:
            priority: The priority.
            busy: The priorities that had work, this one among them; each of the others is owed a share.
        """
        total = 0
        for one, credit in self._credit.items():
            is_busy = one in busy
            self._credit[one] = credit + WEIGHTS[one] if is_busy else 0
            total += WEIGHTS[one] * is_busy
        self._credit[priority] -= total


class Slots:
    """The slots of one worker process."""

    def __init__(self, limit: int) -> None:
        """Start with all slots free.

        Args:
            limit: The most jobs that run at once.
        """
        self.limit = limit
        self.free = limit
        """The number of slots without a job; a job pushed at the wrong moment never makes it fall below zero."""
        self.waiting: dict[Priority, deque[SlotRequest]] = {priority: deque() for priority in Priority}
        """What waits for a slot in this process, by priority, in the order of arrival."""
        self.count_waiting = 0
        self.on_free: Callable[[], None] = lambda: None
        """Called when a slot becomes free, or somebody asks for one."""

    def take(self, priority: Priority) -> Slot:
        """Take a free slot."""
        self.free -= 1
        return Slot(self, priority)

    def ask(self, priority: Priority, begin: Callable[[], None]) -> SlotRequest:
        """Ask for a slot; `begin` is called when it is the request's turn, and takes the slot."""
        request = SlotRequest(priority, begin)
        self.put(request)
        return request

    def put(self, request: SlotRequest) -> None:
        """Let a request wait for its turn."""
        self.waiting[request.priority].append(request)
        self.count_waiting += 1
        self.on_free()

    def withdraw(self, request: SlotRequest) -> None:
        """Withdraw a request; one that had its turn is left alone."""
        if request in self.waiting[request.priority]:
            self.waiting[request.priority].remove(request)
            self.count_waiting -= 1

    def serve(self, priority: Priority) -> None:
        """Give a free slot to the request of a priority that has waited longest."""
        request = self.waiting[priority].popleft()
        self.count_waiting -= 1
        request.begin()

    def left(self) -> None:
        """Note that a slot is free again."""
        self.free += 1
        self.on_free()


class Room:
    """The room of one handler that has a limit of its own."""

    __slots__ = ("free",)

    def __init__(self, limit: int) -> None:
        """Start empty.

        Args:
            limit: The most jobs of the handler that run at once.
        """
        self.free = limit

    def enter(self) -> bool:
        """Take a place; return False if there is none."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True


class Slot:
    """The right of one delivery to have its handler run, which it may leave for a while."""

    __slots__ = ("_priority", "_request", "_room", "_slots", "is_taken")

    def __init__(self, slots: Slots, priority: Priority) -> None:
        self._slots = slots
        self._priority = priority
        self._request: SlotRequest | None = None
        self._room: Room | None = None
        self.is_taken = True

    def enter(self, room: Room) -> bool:
        """Take a place in a handler's room, which is left and taken again with the slot; return False if it is full."""
        if not room.enter():
            return False
        self._room = room
        return True

    def leave(self) -> None:
        """Give up the slot, or the request for it: the delivery waits for something else, or is done with."""
        if self.is_taken:
            self.is_taken = False
            if self._room is not None:
                self._room.free += 1
            self._slots.left()
        elif self._request is not None:
            self._slots.withdraw(self._request)
            self._request = None

    def wait(self) -> asyncio.Future[None]:
        """Ask for the slot again.

        The future is done once it is taken, and takes none if it was cancelled. If its handler has no room by then, the
        future is cancelled.
        """
        had: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = self._slots.ask(self._priority, partial(self._take, had))
        return had

    def _take(self, had: asyncio.Future[None]) -> None:
        self._request = None
        if had.done():
            return
        if self._room is not None and not self._room.enter():
            self._slots.on_free()
            had.cancel()
        else:
            self.is_taken = True
            self._slots.free -= 1
            had.set_result(None)


class SlotRequest:
    """A delivery that waits for a slot in this process."""

    __slots__ = ("begin", "priority")

    def __init__(self, priority: Priority, begin: Callable[[], None]) -> None:
        self.priority = priority
        self.begin = begin
        """Called when it has its turn."""
