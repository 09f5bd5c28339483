"""Requests that were sent and not answered yet: one inbox for all, a future for each."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, NoResponders, Unanswered
from jsjobs.jetstream.client.permissions import NotPermitted, Refusal
from jsjobs.model.errors import JobError

_SWEEP = 0.25  # seconds between two checks for unanswered requests
_ASK_AGAIN = 1.5
"""Seconds after which an unanswered question is sent again; the interval doubles each time. A node that loses its
place as a leader, or dies, never answers what it was asked at that moment."""
_DRAWN = 128
"""Number of tokens drawn at once: four take 66 bytes, each is 22 characters of six bits."""
_ENTRY = ord("$")
"""First character of a subject that others may subscribe to while it is written: an entry of a bucket."""


class Reply(NamedTuple):
    """An answer as it arrived."""

    header: bytes
    data: bytes


class _Question:
    """A request that changes nothing, so that it may be sent more than once."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._every = _ASK_AGAIN
        self._at = time.monotonic() + _ASK_AGAIN

    def ask_if_due(self, reply: bytes, now: float) -> None:
        """Send the request again, if it is time to and there is a connection."""
        if now >= self._at:
            self._every *= 2
            self._at = now + self._every
            with suppress(JobError):  # no connection now, or the new server takes smaller messages than the last one
                self._ask(reply)


def _unguessable() -> Iterator[bytes]:
    """Draw tokens of 132 bits, without end.

    Whoever sees a request sees its reply subject. It must not reveal the reply subject of another request, which that
    observer could then answer.
    """
    size = 22
    while True:
        drawn = secrets.token_urlsafe(_DRAWN * size * 3 // 4).encode()
        for at in range(0, _DRAWN * size, size):
            yield drawn[at : at + size]


class Answers:
    """Hand each answer to the request that waits for it."""

    def __init__(self) -> None:
        # Keep the loop: up to Python 3.11, asking for it is a system call each time.
        self._loop = asyncio.get_running_loop()
        self._tokens = _unguessable()
        self._waiting: dict[bytes, tuple[asyncio.Future[Reply], float, bytes, bool, _Question | None]] = {}
        """By reply subject: the future, its deadline, the request's subject, whether one answer comes, how to ask
        again."""
        self._used: tuple[list[bytes], list[bytes]] = ([], [])
        """Reply subjects to use again: of requests that nobody else sees, and of writes to entries, which others may
        follow."""
        self.inbox = b""
        """Prefix of reply subjects."""
        self.seen_inbox = b""
        """Prefix of the reply subjects of requests that others see; those who answer them may have no right on the
        others."""
        self.are_over = False
        """Whether answers are no longer handed on."""

    def expect(
        self,
        subject: bytes,
        timeout: float,
        *,
        once: bool,
        seen: bool = False,
        again: Callable[[bytes], None] | None = None,
    ) -> tuple[bytes, asyncio.Future[Reply]]:
        """Register a request that is about to be sent, and return its reply subject and future.

        Args:
            subject: The subject of the request.
            timeout: Seconds without an answer, after which the future ends with `ConnectionLost`.
            once: Whether exactly one answer comes. Its reply subject is then used again if possible, which saves the
                server work (docs/server-quirks.md#a-reply-subject-that-was-seen-is-found-faster). It is not used again
                if it was never answered, since the answer may yet come. A reply subject that others saw is not used
                for requests that they do not see.
            seen: Whether the request goes to other clients and not to the server.
            again: Sends the request again, with the reply subject it is given; None: it is sent once.

        Returns:
            The reply subject, and the answer to come.

        Raises:
            ConnectionClosed: If no answer can come any more.
        """
        if self.are_over:
            raise ConnectionClosed
        used = self._used[subject[0] == _ENTRY]
        inbox = self.seen_inbox if seen else self.inbox
        reply = used.pop() if once and used else inbox + next(self._tokens)
        future: asyncio.Future[Reply] = self._loop.create_future()
        question = None if again is None else _Question(again)
        self._waiting[reply] = (future, time.monotonic() + timeout, subject, once, question)
        return reply, future

    def forget(self, reply: bytes) -> None:
        """Drop a request that was not sent."""
        del self._waiting[reply]

    def take(self, subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        """Hand an answer to the request that waits for it."""
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        future, _, asked, once, _ = waiting
        if once:
            self._used[asked[0] == _ENTRY].append(subject)
        if future.done():
            return
        if not data and header.startswith(b"NATS/1.0 503"):
            future.set_exception(
                NoResponders("nobody answers: is JetStream enabled, and was `jsjobs streams apply` run?")
            )
        else:
            future.set_result(Reply(header, data))

    def fail(self, why: str) -> None:
        """Fail all requests that wait for an answer."""
        self._give_up(list(self._waiting), lambda: ConnectionLost(why))

    def end(self, why: str) -> None:
        """Fail all requests that wait, and accept no more."""
        self.are_over = True
        self.fail(why)

    def refuse(self, refusal: Refusal) -> bool:
        """Fail the requests to a subject this user may not publish on; return whether there were any."""
        refused = [reply for reply, (_, _, subject, _, _) in self._waiting.items() if subject == refusal.subject]
        self._give_up(refused, lambda: NotPermitted(refusal))
        return bool(refused)

    async def sweep(self) -> None:
        """Fail requests that wait for too long, and send unanswered questions again, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = time.monotonic()
            late = [reply for reply, (_, deadline, _, _, _) in self._waiting.items() if deadline < now]
            self._give_up(late, Unanswered)
            for reply, (future, _, _, _, question) in list(self._waiting.items()):
                if question is not None and not future.done():
                    question.ask_if_due(reply, now)

    def _give_up(self, replies: list[bytes], error: Callable[[], JobError]) -> None:
        for reply in replies:
            future = self._waiting.pop(reply)[0]
            if not future.done():
                future.set_exception(error())
