"""Admission of requests to a micro service: limited in number and bytes, also for each subject."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from jsjobs.jetstream.client.connection import Connection

MOST_REQUESTS = 1000
"""Limit for requests in progress at one endpoint; one more is refused. Requests that wait take no room from those
that do not."""
MOST_OF_ONE = 100
"""Limit for requests in progress of one subject, at an endpoint with many: one tenant's requests leave room for
others."""
MOST_BYTES = 64 * 2**20
"""Limit for the bytes of all requests in progress on the connections."""
_BYTES_OF_ONE = 16 * 2**20
_READS_FOR = 0.05
"""Seconds for which a request lets earlier input from the server be read first."""

_LARGE = 64 * 2**10
_BREATH = 0.01
"""Seconds given to others before a large request."""


class Admission:
    """The requests in progress on some connections.

    Args:
        connections: The connections on which they arrive, at least one.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = tuple(connections)
        self._bytes = 0
        self._requests: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()
        self._door = asyncio.Lock()

    def refusal(self, subject: str, size: int, *, under_way: int, is_one_of_many: bool) -> str | None:
        """Return why one more request is not taken, or None if it is.

        Args:
            subject: The subject of the request.
            size: The size of its headers and body, in bytes.
            under_way: The number of requests in progress at its endpoint.
            is_one_of_many: Whether its endpoint has many subjects.
        """
        if is_one_of_many and (
            self._requests[subject] >= MOST_OF_ONE or self._bytes_of[subject] + size > _BYTES_OF_ONE
        ):
            return f"{self._requests[subject]} requests to {subject}"
        return "" if under_way >= MOST_REQUESTS or self._bytes + size > MOST_BYTES else None

    def begin(self, subject: str, size: int) -> None:
        """Count a request as in progress."""
        self._bytes += size
        self._requests[subject] += 1
        self._bytes_of[subject] += size

    def end(self, subject: str, size: int) -> None:
        """Stop counting a request."""
        self._bytes -= size
        self._requests[subject] -= 1
        self._bytes_of[subject] -= size
        if not self._requests[subject]:
            del self._requests[subject], self._bytes_of[subject]

    async def turn(self, size: int) -> None:
        """Wait for a request's turn, one after the other, and let input from the server be read first.

        The server cuts a connection that does not read what it sends, and with it everything in progress. Reading costs
        little, since excess requests are refused; serving costs more. A large request holds up the event loop: before
        it, other connections get time for several questions and answers.

        Args:
            size: The size of its headers and body, in bytes.
        """
        async with self._door:
            until = time.monotonic() + _READS_FOR
            await asyncio.sleep(_BREATH if size > _LARGE else 0)
            # The event loop reads meanwhile.
            while any(each.is_behind for each in self.connections) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0)
