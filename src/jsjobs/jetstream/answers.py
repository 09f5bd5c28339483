"""Requests that were sent and are not answered yet: one inbox for all, a future for each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from jsjobs.jetstream.errors import ConnectionLost, NoResponders, Unanswered
from jsjobs.jetstream.refusals import NotPermitted, Refusal
from jsjobs.model.errors import JobError

_SWEEP = 0.25  # seconds between two looks for unanswered requests


class Reply(NamedTuple):
    """An answer as it came."""

    header: bytes
    data: bytes


class Answers:
    """Hands each answer to who waits for it."""

    def __init__(self) -> None:
        # The loop is known: to ask for it is a system call each time, up to Python 3.11.
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._waiting: dict[bytes, tuple[asyncio.Future[Reply], float, bytes, bool]] = {}
        """By reply subject: who waits, until when, where the request went, and whether one answer comes."""
        self._used: list[bytes] = []
        self.inbox = b""
        """What all reply subjects begin with."""

    def expect(self, subject: bytes, timeout: float, *, once: bool) -> tuple[bytes, asyncio.Future[Reply]]:
        """Somebody is about to send to a subject, and waits for the answer.

        Args:
            subject: Where the request goes.
            timeout: Seconds without an answer, after which there is a `ConnectionLost`.
            once: Whether one answer comes and no more. Its reply subject is then used again, if possible: the server
                finds one that it has just seen without matching it against all subscriptions, which is an eighth of its
                work for a job (measured on nats-server 2.15.1). One that was never answered is not: its answer may yet
                come.

        Returns:
            The reply subject, and the answer to come.
        """
        reply = self._used.pop() if once and self._used else b"%b%x" % (self.inbox, next(self._ids))
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[reply] = (future, time.monotonic() + timeout, subject, once)
        return reply, future

    def forget(self, reply: bytes) -> None:
        """Nothing was sent."""
        del self._waiting[reply]

    def take(self, subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        """An answer came."""
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        future, _, _, once = waiting
        if once:
            self._used.append(subject)
        if future.done():
            return
        if not data and header.startswith(b"NATS/1.0 503"):
            future.set_exception(NoResponders("nobody answers: is JetStream on, and was `jsjobs streams apply` run?"))
        else:
            future.set_result(Reply(header, data))

    def fail(self, why: str) -> None:
        """None will come."""
        self._give_up(list(self._waiting), lambda: ConnectionLost(why))

    def refuse(self, refusal: Refusal) -> bool:
        """None will come to what was sent to a subject that this user may not publish on; whether somebody waited."""
        refused = [reply for reply, (_, _, subject, _) in self._waiting.items() if subject == refusal.subject]
        self._give_up(refused, lambda: NotPermitted(refusal))
        return bool(refused)

    async def sweep(self) -> None:
        """End what waits for too long; until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = time.monotonic()
            late = [reply for reply, (_, deadline, _, _) in self._waiting.items() if deadline < now]
            self._give_up(late, Unanswered)

    def _give_up(self, replies: list[bytes], error: Callable[[], JobError]) -> None:
        for reply in replies:
            future = self._waiting.pop(reply)[0]
            if not future.done():
                future.set_exception(error())
