"""Requests that were sent and are not answered yet: one inbox for all, a future for each."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from jsjobs.jetstream.errors import ConnectionClosed, ConnectionLost, NoResponders, Unanswered
from jsjobs.jetstream.refusals import NotPermitted, Refusal
from jsjobs.model.errors import JobError

_SWEEP = 0.25  # seconds between two looks for unanswered requests
_ASK_AGAIN = 1.5
"""Seconds after which a question without an answer is asked again; each further time twice as many. A node that loses
its place as a leader, or dies, never answers what it was asked at that moment."""
_DRAWN = 128
"""Tokens that are drawn at once, four in 66 bytes, each of 22 characters of six bits."""
_ENTRY = ord("$")
"""What a subject begins with that others may subscribe to while it is written: an entry of a bucket."""


class Reply(NamedTuple):
    """An answer as it came."""

    header: bytes
    data: bytes


class _Question:
    """A request that changes nothing, and so may be sent more than once."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._every = _ASK_AGAIN
        self._at = time.monotonic() + _ASK_AGAIN

    def ask_if_due(self, reply: bytes, now: float) -> None:
        """Send it again, if it is time to and there is a connection."""
        if now >= self._at:
            self._every *= 2
            self._at = now + self._every
            with suppress(JobError):  # there is no connection now, or the new server takes less than the last one
                self._ask(reply)


def _unguessable() -> Iterator[bytes]:
    """Draw tokens of 132 bits, without an end.

    Whoever sees a request sees its reply subject: it must not tell him the reply subject of another request, which he
    could then answer.
    """
    size = 22
    while True:
        drawn = secrets.token_urlsafe(_DRAWN * size * 3 // 4).encode()
        for at in range(0, _DRAWN * size, size):
            yield drawn[at : at + size]


class Answers:
    """Hands each answer to who waits for it."""

    def __init__(self) -> None:
        # The loop is known: to ask for it is a system call each time, up to Python 3.11.
        self._loop = asyncio.get_running_loop()
        self._tokens = _unguessable()
        self._waiting: dict[bytes, tuple[asyncio.Future[Reply], float, bytes, bool, _Question | None]] = {}
        """By reply subject: who waits, until when, where the request went, if one answer comes, how to ask again."""
        self._used: tuple[list[bytes], list[bytes]] = ([], [])
        """Reply subjects to be used again: of what nobody else sees; of writes to entries, which others may follow."""
        self.inbox = b""
        """What reply subjects begin with."""
        self.seen_inbox = b""
        """What those begin with of requests that others see: what may answer these may have no right on the others."""
        self.are_over = False
        """Whether nobody hands answers on any more."""

    def expect(
        self,
        subject: bytes,
        timeout: float,
        *,
        once: bool,
        seen: bool = False,
        again: Callable[[bytes], None] | None = None,
    ) -> tuple[bytes, asyncio.Future[Reply]]:
        """Somebody is about to send to a subject, and waits for the answer.

        Args:
            subject: Where the request goes.
            timeout: Seconds without an answer, after which there is a `ConnectionLost`.
            once: Whether one answer comes and no more. Its reply subject is then used again, if possible: the server
                finds one that it has just seen without matching it against all subscriptions, which is an eighth of its
                work for a job (measured on nats-server 2.15.1). One that was never answered is not: its answer may yet
                come. Nor is one that others saw used for what they do not see.
            seen: Whether it is a request to other clients, and no request to the server.
            again: Sends the request again, for an answer on the reply subject it is given; None: it is sent once.

        Returns:
            The reply subject, and the answer to come.

        Raises:
            ConnectionClosed: If none can come any more.
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
        """Nothing was sent."""
        del self._waiting[reply]

    def take(self, subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        """An answer came."""
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        future, _, asked, once, _ = waiting
        if once:
            self._used[asked[0] == _ENTRY].append(subject)
        if future.done():
            return
        if not data and header.startswith(b"NATS/1.0 503"):
            future.set_exception(NoResponders("nobody answers: is JetStream on, and was `jsjobs streams apply` run?"))
        else:
            future.set_result(Reply(header, data))

    def fail(self, why: str) -> None:
        """None will come."""
        self._give_up(list(self._waiting), lambda: ConnectionLost(why))

    def end(self, why: str) -> None:
        """None will come from now on, to nobody."""
        self.are_over = True
        self.fail(why)

    def refuse(self, refusal: Refusal) -> bool:
        """None will come to what was sent to a subject that this user may not publish on; whether somebody waited."""
        refused = [reply for reply, (_, _, subject, _, _) in self._waiting.items() if subject == refusal.subject]
        self._give_up(refused, lambda: NotPermitted(refusal))
        return bool(refused)

    async def sweep(self) -> None:
        """End what waits for too long; until cancelled."""
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
