"""Follow something that changes: messages on a subject hint that it may have changed, and a read confirms it.

A hint is not proof: subscribers also see a write that loses its race, and a hint may come before its message is stored.
So a few reads follow each hint in quick succession. Further reads, now and then, find what no hint told.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost
from jsjobs.model.errors import JobError

_AFTER_HINT = (0.001, 0.004, 0.02, 0.1)
"""Seconds to each of the reads after a hint."""
_LIVE = re.compile(rb'\{"job_id":"[^"]*","status":"(queued|processing)"')
_IDLE = (1.0,)
"""Seconds between reads without hints."""

T = TypeVar("T")


def may_tell_end(entry: bytes) -> bool:
    """Return whether a hint's message may be the entry of an ended job; one that surely is not needs no read."""
    return _LIVE.match(entry) is None


def _any(_data: bytes) -> bool:
    return True


class Follower(Generic[T]):
    """Decide when to read one thing, and wait out the outages in which it cannot be read.

    The first read is asked for with `hint` or `read_soon`. It and each further one are announced by a call of `on_due`;
    whoever follows then calls `read`.

    Args:
        connection: The connection that is read and listened on.
        read: Reads the thing.
        on_due: Called when a read becomes due; it must not block.
        pauses: Seconds between reads without hints; the last value is repeated. Without any, such reads happen only
            when they are asked for.
        waits_for_server: Whether an outage is waited out before anything was read, too.
        deadline: The monotonic time after which no outage is waited out.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_follow_ups",
        "_is_closed",
        "_is_due_again",
        "_is_known",
        "_is_listening",
        "_on_due",
        "_pauses",
        "_pauses_left",
        "_read",
        "_subscription",
        "_timer",
        "_waits_for_server",
        "is_due",
    )

    def __init__(
        self,
        connection: Connection,
        read: Callable[[], Awaitable[T]],
        on_due: Callable[[], None],
        *,
        pauses: Sequence[float] = (),
        waits_for_server: bool = False,
        deadline: float = math.inf,
    ) -> None:
        self.is_due = False
        """Whether a read is due or under way."""
        self._connection = connection
        self._read = read
        self._on_due = on_due
        self._pauses = self._pauses_left = pauses
        self._waits_for_server = waits_for_server
        self._deadline = deadline
        self._follow_ups: Sequence[float] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._subscription: int | None = None
        self._is_listening = False
        self._is_due_again = False
        self._is_known = False
        self._is_closed = False

    async def listen(self, subject: bytes, may_tell: Callable[[bytes], bool] = _any) -> None:
        """Subscribe to hints; do nothing if that was done already.

        Args:
            subject: The subject whose messages are hints.
            may_tell: Tells by a message's body whether it is worth a read.

        Raises:
            ConnectionClosed: If the connection was closed.
            WrongLoop: If this is not the event loop of the connection.
        """

        def on_message(_subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
            if may_tell(data):
                self.hint()

        if self._is_listening:
            return
        self._is_listening = True
        try:
            self._subscription = await self._connection.receive(subject, on_message)
        except BaseException:
            self._is_listening = False  # somebody else may still subscribe
            raise
        if self._is_closed:
            await self._unsubscribe()  # it was closed at this moment

    async def close(self) -> None:
        """Unsubscribe, and let no read become due any more."""
        self._is_closed, self.is_due = True, False
        self._stop_timer()
        await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._connection.stop_receiving(subscription, drain=False)

    @property
    def is_hinted(self) -> bool:
        """Return whether more reads follow shortly, because of a hint."""
        return bool(self._follow_ups)

    def hint(self) -> None:
        """Read now, and a few times more in quick succession."""
        self._follow_ups = _AFTER_HINT
        self._wake()

    def read_soon(self) -> None:
        """Read now, and begin the pauses anew."""
        self._pauses_left = self._pauses
        self._wake()

    def _wake(self) -> None:
        if self._is_closed:
            return
        if self.is_due:
            self._is_due_again = True
            return
        self._stop_timer()
        self.is_due = True
        self._on_due()

    async def read(self) -> T | None:
        """Read now that it is due, and let the next read become due in its time.

        Returns:
            What was found; None in an outage, after which a later read may succeed.

        Raises:
            JobError: If no later read may succeed, or none should be waited for.
        """
        self._is_due_again = False
        try:
            found = await self._read()
        except JobError as error:
            if not self._is_waited_out(error):
                raise
            return None
        finally:
            self._after_read()
        self._is_known = True
        return found

    def _is_waited_out(self, error: JobError) -> bool:
        if isinstance(error, ConnectionClosed) or not error.is_transient or time.monotonic() >= self._deadline:
            return False
        return self._is_known or (self._waits_for_server and isinstance(error, ConnectionLost))

    def _after_read(self) -> None:
        self.is_due = False
        if self._is_due_again:
            self._wake()
        elif self._follow_ups:
            pause, *self._follow_ups = self._follow_ups
            self._wake_in(pause)
        elif self._pauses_left:
            pause, *left = self._pauses_left
            self._pauses_left = left or self._pauses_left
            self._wake_in(pause)

    def _wake_in(self, pause: float) -> None:
        if not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(pause, self._wake)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def follow(
    connection: Connection,
    subject: bytes,
    read: Callable[[], Awaitable[T]],
    *,
    waits_for_server: bool = False,
    deadline: float = math.inf,
) -> AsyncGenerator[T, None]:
    """Yield what each read finds: the first one, those after hints, and one every second. Close it to unsubscribe.

    Args:
        connection: The connection that is read and listened on.
        subject: The subject whose messages are hints.
        read: Reads what is followed.
        waits_for_server: As for a `Follower`.
        deadline: As for a `Follower`.

    Raises:
        JobError: As `Follower.read`.
    """
    is_due = asyncio.Event()
    follower = Follower(
        connection, read, is_due.set, pauses=_IDLE, waits_for_server=waits_for_server, deadline=deadline
    )
    try:
        await follower.listen(subject)
        follower.hint()
        while True:
            await is_due.wait()
            is_due.clear()
            found = await follower.read()
            if found is not None:
                yield found
    finally:
        await follower.close()
