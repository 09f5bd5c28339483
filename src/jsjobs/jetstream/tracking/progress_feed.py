"""Follow a job's progress: the updates that the server keeps, then live ones as they are published, none twice.

Live updates come on a plain subscription and have no sequence; kept ones are read in one request and have one. Kept
ones are read at the start, after a new connection, now and then, and once more when the job has ended. An update that
the subscription missed is found then, as long as the server keeps it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from pydantic import ValidationError

from jsjobs.jetstream.api.messages import read_batch
from jsjobs.jetstream.api.types import BatchRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.headers import value_of
from jsjobs.jetstream.protocol.job_ids import checked_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.tracking.follower import Follower, may_tell_end
from jsjobs.model.errors import JobError
from jsjobs.model.job import ProgressUpdate

_KEPT = 100
"""Updates of one job that the server keeps: `max_msgs_per_subject` of the stream."""
_REMEMBERED = 3 * _KEPT
_UNREAD = 1000
"""Live updates that wait for a slow reader, at most; older ones are dropped, as on the server."""
_MAX_BODY = 16 * 1024
"""Bytes of an update, at most: ours have half of that, and a stranger's larger message is no progress update."""
_NOW_AND_THEN = (0.25, 1.0, 5.0)
"""Seconds between the first reads without a hint. They begin short, since a cluster's nodes learn of a subscription one
by one; the last value is repeated."""
_LAST_ONES = 0.02
"""Seconds after which updates that were sent before the job's end are surely stored."""

Ended = Callable[[], Awaitable[bool]]
"""Returns whether the job has ended; raises `JobError` as a look-up does."""


async def follow_progress(
    connection: Connection, names: Names, job_id: str, ended: Ended
) -> AsyncGenerator[ProgressUpdate, None]:
    """Yield the updates of a job until it has ended; close it to unsubscribe.

    Raises:
        JobError: Whatever `ended` raises at the first read; later outages are waited out.
    """
    feed = _Feed(connection, names, checked_id(job_id), ended)
    try:
        await feed.open()
        while not feed.has_ended:
            for body in await feed.next():
                with suppress(ValidationError):  # anybody may publish there
                    yield ProgressUpdate.model_validate_json(body)
    finally:
        await feed.close()


class _Feed:
    def __init__(self, connection: Connection, names: Names, job_id: str, ended: Ended) -> None:
        self.has_ended = False
        self._connection = connection
        self._names = names
        self._job_id = job_id
        self._ended = ended
        self._subscription: int | None = None
        self._live: deque[bytes] = deque(maxlen=_UNREAD)
        self._stirred = asyncio.Event()
        self._sequence = 0
        self._yielded_live = _Bodies()
        self._read_first = _Bodies()
        self._follower = Follower(connection, self._read, self._stirred.set, pauses=_NOW_AND_THEN)
        self._must_read = True
        self._has_gap = True
        """Whether the subscription may have missed updates older than the live ones that wait here."""

    async def open(self) -> None:
        """Subscribe, so that no update is lost between the first read and the live ones."""
        self._subscription = await self._connection.receive(self._names.progress(self._job_id), self._on_update)
        await self._follower.listen(self._names.state(self._job_id), may_tell_end)
        self._connection.on_reconnect.append(self._on_reconnect)
        self._follower.read_soon()

    async def close(self) -> None:
        """Unsubscribe."""
        with suppress(ValueError):
            self._connection.on_reconnect.remove(self._on_reconnect)
        if self._subscription is not None:
            await self._connection.stop_receiving(self._subscription, drain=False)
        await self._follower.close()

    def _on_update(self, _subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        if len(data) <= _MAX_BODY:
            if not self._connection.is_up:  # a new connection that `_on_reconnect` has yet to hear of
                self._must_read = self._has_gap = True
            self._live.append(data)
            self._stirred.set()

    def _on_reconnect(self) -> None:
        self._must_read = self._has_gap = True
        self._follower.read_soon()

    async def next(self) -> list[bytes]:
        """Return the new updates, as soon as there may be some."""
        while not self._follower.is_due and (self._has_gap or not self._live):
            await self._stirred.wait()
            self._stirred.clear()
        bodies = await self._follower.read() if self._follower.is_due else None
        return self._new_live() if bodies is None else bodies

    async def _read(self) -> list[bytes]:
        # Of the reads after a hint only the last one looks for updates that the subscription missed.
        self._must_read = self._must_read or not self._follower.is_hinted
        ended = await self._ended()
        if ended:
            await asyncio.sleep(_LAST_ONES)
        elif not self._must_read:
            return self._new_live()
        self._must_read, had_gap, self._has_gap = False, self._has_gap, False
        try:
            bodies = await self._new_kept()
        except JobError:
            self._must_read, self._has_gap = True, had_gap or self._has_gap
            raise
        self.has_ended = ended
        return bodies

    def _new_live(self) -> list[bytes]:
        if self._has_gap:
            return []  # older updates come first
        bodies = [body for body in self._live if not self._read_first.take(body)]
        self._live.clear()
        for body in bodies:
            self._yielded_live.add(body)
        return bodies

    async def _new_kept(self) -> list[bytes]:
        kept, self._sequence = await _read_kept(self._connection, self._names, self._job_id, self._sequence)
        # Live ones older than the oldest kept one come first: a flood has more updates than the server keeps.
        known = set(kept)
        older = list(itertools.takewhile(lambda body: body not in known, self._live))
        if len(older) == len(self._live):
            older = []  # the order is unknown; kept updates that were not heard are likely older
        for _ in older:
            self._live.popleft()
        older = [body for body in older if not self._read_first.take(body)]
        for body in older:
            self._yielded_live.add(body)
        bodies = [body for body in kept if not self._yielded_live.take(body)]
        for body in bodies:
            self._read_first.add(body)
        return older + bodies + self._new_live()


class _Bodies:
    """The newest bodies that came one way, and may yet come the other way too."""

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._count: Counter[bytes] = Counter()

    def add(self, body: bytes) -> None:
        self._order.append(body)
        self._count[body] += 1
        if len(self._order) > _REMEMBERED:
            self.take(self._order.popleft())

    def take(self, body: bytes) -> bool:
        """Remove a body, and return whether it was there."""
        if body not in self._count:
            return False
        self._count[body] -= 1
        if not self._count[body]:
            del self._count[body]
        return True


async def _read_kept(connection: Connection, names: Names, job_id: str, after: int) -> tuple[list[bytes], int]:
    """Return the bodies that the server keeps after a sequence, oldest first, and the sequence of the last one.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the stream does not exist.
    """
    bodies: list[bytes] = []

    def take(header: bytes, data: bytes) -> None:
        nonlocal after
        after = int(value_of(header, b"Nats-Sequence") or after)
        if len(data) <= _MAX_BODY:
            bodies.append(data)

    request: BatchRequest = {"seq": after + 1, "next_by_subj": names.progress(job_id).decode(), "batch": 2 * _KEPT}
    await read_batch(connection, names.progress_stream, request, take)
    return bodies, after
