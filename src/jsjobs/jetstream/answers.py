"""Requests that were sent and are not answered yet: one inbox for all, a future for each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from jsjobs.jetstream.errors import ConnectionLost, NoResponders
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
        self._waiting: dict[bytes, tuple[asyncio.Future[Reply], float, bytes]] = {}
        self._used: list[bytes] = []
        self.inbox = b""
        """What stands before each token in a reply subject."""

    def token(self) -> bytes:
        """A last word for a reply subject, which was never used before."""
        return b"%x" % next(self._ids)

    def used_token(self) -> bytes:
        """One for a message that is answered once: used before, if possible, and answered.

        The server finds a subject that it has just seen without matching it against all subscriptions, which is an
        eighth of its work for a job (measured on nats-server 2.15.1). One that was never answered is not used again:
        its answer may yet come.
        """
        return self._used.pop() if self._used else b"s%x" % next(self._ids)

    def expect(self, token: bytes, timeout: float, subject: bytes) -> asyncio.Future[Reply]:
        """The answer to what was just sent to a subject; `ConnectionLost` after so many seconds without one."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[token] = (future, time.monotonic() + timeout, subject)
        return future

    def take(self, subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        """An answer came."""
        token = subject[len(self.inbox) :]
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return
        if token.startswith(b"s"):
            self._used.append(token)
        if waiting[0].done():
            return
        if not data and header.startswith(b"NATS/1.0 503"):
            waiting[0].set_exception(
                NoResponders("nobody answers: is JetStream on, and was `jsjobs streams apply` run?")
            )
        else:
            waiting[0].set_result(Reply(header, data))

    def fail(self, why: str) -> None:
        """None will come."""
        self._give_up(list(self._waiting), lambda: ConnectionLost(why))

    def refuse(self, refusal: Refusal) -> bool:
        """None will come to what was sent to a subject that this user may not publish on; whether somebody waited."""
        refused = [token for token, (_, _, subject) in self._waiting.items() if subject == refusal.subject]
        self._give_up(refused, lambda: NotPermitted(refusal))
        return bool(refused)

    async def sweep(self) -> None:
        """End what waits for too long; until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = time.monotonic()
            late = [token for token, (_, deadline, _) in self._waiting.items() if deadline < now]
            self._give_up(late, lambda: ConnectionLost("NATS did not answer in time"))

    def _give_up(self, tokens: list[bytes], error: Callable[[], JobError]) -> None:
        for token in tokens:
            future = self._waiting.pop(token)[0]
            if not future.done():
                future.set_exception(error())
