"""Which requests to a micro service are taken: bounded in number and bytes, and of one subject's too."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from jsjobs.jetstream.connection import Connection

MOST_REQUESTS = 1000
"""Requests under way at one endpoint; one more is refused. Those that wait take no room from those that do not."""
MOST_OF_ONE = 100
"""Requests under way of one subject, at an endpoint with many: one tenant's leave room for the others'."""
_MOST_BYTES = 64 * 2**20
"""Bytes of all requests under way on them."""
_BYTES_OF_ONE = 16 * 2**20
_READS_FOR = 0.05
"""Seconds for which a request lets what the server has sent be read before it."""

_LARGE = 64 * 2**10
_BREATH = 0.01
"""Seconds for others before a large request."""


class Admission:
    """The requests under way on some connections.

    Args:
        connections: That they come on, at least one.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = tuple(connections)
        self._bytes = 0
        self._requests: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()
        self._door = asyncio.Lock()

    def refusal(self, subject: str, size: int, *, under_way: int, is_one_of_many: bool) -> str | None:
        """Why one more request is not taken; None where it is.

        Args:
            subject: That it came on.
            size: Of its headers and body, bytes.
            under_way: Requests under way at its endpoint.
            is_one_of_many: Whether its endpoint has many subjects.
        """
        if is_one_of_many and (
            self._requests[subject] >= MOST_OF_ONE or self._bytes_of[subject] + size > _BYTES_OF_ONE
        ):
            return f"{self._requests[subject]} requests to {subject}"
        return "" if under_way >= MOST_REQUESTS or self._bytes + size > _MOST_BYTES else None

    def begin(self, subject: str, size: int) -> None:
        """Count a request."""
        self._bytes += size
        self._requests[subject] += 1
        self._bytes_of[subject] += size

    def end(self, subject: str, size: int) -> None:
        """Count it no more."""
        self._bytes -= size
        self._requests[subject] -= 1
        self._bytes_of[subject] -= size
        if not self._requests[subject]:
            del self._requests[subject], self._bytes_of[subject]

    async def turn(self, size: int) -> None:
        """Wait for a request's turn, one after the other; what the server has sent is read first.

        The server cuts a connection that does not read what it sends, and with it all that is under way. Reading costs
        little, since what is too much is refused; what is served costs more. A large one holds up the event loop:
        before it, what comes on other connections has time for several questions and answers.

        Args:
            size: Of its headers and body, bytes.
        """
        async with self._door:
            until = time.monotonic() + _READS_FOR
            await asyncio.sleep(_BREATH if size > _LARGE else 0)
            while any(each.is_behind for each in self.connections) and time.monotonic() < until:  # noqa: ASYNC110 - the loop reads meanwhile
                await asyncio.sleep(0)
