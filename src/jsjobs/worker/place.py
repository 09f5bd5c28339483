"""A place among the deliveries that a worker runs at once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jsjobs.jetstream.subjects import Shard
from jsjobs.worker.turns import Claimant

if TYPE_CHECKING:
    from jsjobs.worker.bounded import BoundedTaking


class Place:
    """The right of one delivery to have its handler run, which it may leave for a while."""

    __slots__ = ("_bound", "_claimant", "_shard", "is_taken")

    def __init__(self, bound: BoundedTaking, shard: Shard, *, is_taken: bool) -> None:
        self._bound = bound
        self._shard = shard
        self._claimant: Claimant | None = None
        self.is_taken = is_taken

    def leave(self) -> None:
        """Let another have it: the delivery waits for something else, or is done with."""
        if self.is_taken:
            self.is_taken = False
            self._bound.left()
        elif self._claimant is not None:
            self._bound.withdraw(self._claimant)
            self._claimant = None

    def wait(self) -> asyncio.Future[None]:
        """Ask for it again: done once it is taken. One that was cancelled takes none."""
        had: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claimant = self._bound.ask(self._shard, partial(self._take, had))
        return had

    def _take(self, had: asyncio.Future[None]) -> None:
        self._claimant = None
        if not had.done():
            self.is_taken = True
            self._bound.took()
            had.set_result(None)

    def make_way(self, attempt: int) -> bool:
        """Whether the delivery is to be given back, so that another process can run it; it is not sent here again."""
        return self._bound.make_way(self._shard, attempt)
