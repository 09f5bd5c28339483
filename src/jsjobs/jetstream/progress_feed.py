"""Following a job's progress: what the server keeps, then live updates as they are published, none twice.

Live updates come on a plain subscription, and bear no sequence; kept ones are read in one request, and do. They are
read at the start, after a new connection, now and then, and once more when the job has ended: what a subscription
missed is told then, as long as the server keeps it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from pydantic import ValidationError

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.follow import AFTER_HINT, may_tell_end
from jsjobs.jetstream.ids import checked_id
from jsjobs.jetstream.stored import read_batch
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import value_of
from jsjobs.model.errors import JobError
from jsjobs.model.progress import ProgressUpdate

_KEPT = 100
"""Updates of one job that the server keeps: `max_msgs_per_subject` of the stream."""
_REMEMBERED = 3 * _KEPT
_UNREAD = 1000
"""Live updates that wait for a slow reader, at most; older ones slide out, as on the server."""
_MAX_BODY = 16 * 1024
"""Bytes of an update, at most: ours are half of it, a stranger's larger ones are nobody's progress."""
_NOW_AND_THEN = (0.25, 1.0, 5.0)
"""Seconds between the first looks without a hint; soon, since a cluster's nodes learn of a subscription one by one."""
_LAST_ONES = 0.02
"""Seconds in which updates that were sent before the job's end are surely stored."""

Ended = Callable[[], Awaitable[bool]]
"""Whether the job has ended; raises `JobError` as a look-up does."""


async def follow_progress(
    connection: Connection, names: Names, job_id: str, ended: Ended
) -> AsyncGenerator[ProgressUpdate, None]:
    """The updates of a job, until it has ended; close it to unsubscribe.

    Raises:
        JobError: As `ended`, at the first look; later an outage is waited out.
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
        self._subscriptions: list[int] = []
        self._live: deque[bytes] = deque(maxlen=_UNREAD)
        self._stirred = asyncio.Event()
        self._sequence = 0
        self._yielded_live = _Bodies()
        self._read_first = _Bodies()
        self._status_looks: list[float] = []
        self._pauses = list(_NOW_AND_THEN)
        self._look_at = 0.0
        self._is_known = False
        self._must_read = True
        self._has_gap = True
        """Whether a subscription may have missed what is older than the live ones that wait here."""

    async def open(self) -> None:
        """Subscribe, so that nothing falls between the first read and what is live."""
        receive = self._connection.receive
        self._subscriptions.append(await receive(self._names.progress(self._job_id), self._on_update))
        self._subscriptions.append(await receive(self._names.state(self._job_id), self._on_change))
        self._connection.on_reconnect.append(self._on_reconnect)

    async def close(self) -> None:
        """Unsubscribe."""
        with suppress(ValueError):
            self._connection.on_reconnect.remove(self._on_reconnect)
        for subscription in self._subscriptions:
            await self._connection.stop_receiving(subscription, drain=False)

    def _on_update(self, _subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        if len(data) <= _MAX_BODY:
            if not self._connection.is_up:  # a new one, of which `_on_reconnect` has yet to hear
                self._must_read = self._has_gap = True
            self._live.append(data)
            self._stirred.set()

    def _on_change(self, _subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        if not may_tell_end(data):
            return
        # A hint may come before its write is stored, and of a write that loses its race: see `follow`.
        self._status_looks = list(AFTER_HINT)
        self._look_at = 0.0
        self._stirred.set()

    def _on_reconnect(self) -> None:
        self._must_read = self._has_gap = True
        self._pauses = list(_NOW_AND_THEN)
        self._look_at = 0.0
        self._stirred.set()

    async def next(self) -> list[bytes]:
        """What is new, as soon as there may be something."""
        now = time.monotonic()
        if now < self._look_at and (self._has_gap or not self._live):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_at - now):
                    await self._stirred.wait()
        self._stirred.clear()
        if time.monotonic() < self._look_at:
            return self._new_live()
        try:
            return await self._look()
        except JobError as error:
            if not self._is_known or not error.is_transient or isinstance(error, ConnectionClosed):
                raise
            return self._new_live()  # an outage: the next look may succeed

    async def _look(self) -> list[bytes]:
        self._must_read = self._must_read or not self._status_looks
        # Set before the first wait, so that a hint during the look is not lost.
        self._look_at = time.monotonic() + self._pause()
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
        self._is_known = True
        self.has_ended = ended
        return bodies

    def _pause(self) -> float:
        if self._status_looks:
            return self._status_looks.pop(0)
        return self._pauses.pop(0) if len(self._pauses) > 1 else self._pauses[0]

    def _new_live(self) -> list[bytes]:
        if self._has_gap:
            return []  # what is older comes first
        bodies = [body for body in self._live if not self._read_first.take(body)]
        self._live.clear()
        for body in bodies:
            self._yielded_live.add(body)
        return bodies

    async def _new_kept(self) -> list[bytes]:
        kept, self._sequence = await _read_kept(self._connection, self._names, self._job_id, self._sequence)
        # Live ones that wait here from before the oldest kept one come first: of a flood there are more than are kept.
        known = set(kept)
        older = list(itertools.takewhile(lambda body: body not in known, self._live))
        if len(older) == len(self._live):
            older = []  # nothing tells which came first; what is kept and was not heard is rather the older
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
    """The newest of those bodies that came one way, and may yet come the other way too."""

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._count: Counter[bytes] = Counter()

    def add(self, body: bytes) -> None:
        self._order.append(body)
        self._count[body] += 1
        if len(self._order) > _REMEMBERED:
            self.take(self._order.popleft())

    def take(self, body: bytes) -> bool:
        """Whether it is one of them; it is none of them any more then."""
        if body not in self._count:
            return False
        self._count[body] -= 1
        if not self._count[body]:
            del self._count[body]
        return True


async def _read_kept(connection: Connection, names: Names, job_id: str, after: int) -> tuple[list[bytes], int]:
    """The bodies that the server keeps behind a sequence, oldest first, and the sequence of the last one.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached or the stream does not exist.
    """
    bodies: list[bytes] = []

    def take(header: bytes, data: bytes) -> None:
        nonlocal after
        after = int(value_of(header, b"Nats-Sequence") or after)
        if len(data) <= _MAX_BODY:
            bodies.append(data)

    request = {"seq": after + 1, "next_by_subj": names.progress(job_id).decode(), "batch": 2 * _KEPT}
    await read_batch(connection, names.progress_stream, request, take)
    return bodies, after
