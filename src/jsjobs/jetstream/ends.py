"""Waiting for the ends of many jobs at once, without a consumer on the server: one table for all who wait.

A plain subscription on a job's entry hints that it may have ended, a read tells. Hints may come before their write is
stored, or not at all (see `follow`): so a hint is followed by a few looks, all are looked at after a new connection,
and a slow poll, whose rate is bounded for the whole table, goes over them in turn.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed, ConnectionLost
from jsjobs.jetstream.follow import AFTER_HINT, may_tell_end
from jsjobs.jetstream.ids import checked_id
from jsjobs.jetstream.lookup import Lookup
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.checks import checked_text
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.following")

WINDOW = 1000
"""Jobs of one list that are subscribed at once, at most; those behind them are only polled until it is their turn."""
_LOOKS_AT_ONCE = 64
_POLL_EVERY = 0.5
_POLLED_AFTER = 1.0
"""Seconds between two polls of a job, where few are awaited."""
_POLLS_PER_SECOND = 200
"""Where many are."""

Outcome = JobStatusResponse | JobError
"""How a job ended, or why that will not be known."""


@dataclass(slots=True, eq=False)
class _Awaited:
    job_id: str
    waiting: set[asyncio.Future[Outcome]] = field(default_factory=set)
    last: JobStatusResponse | None = None
    is_listening: bool = False
    subscription: int | None = None
    follow_ups: list[float] = field(default_factory=list)
    is_due: bool = False
    """Whether a look is waiting or under way."""
    is_due_again: bool = False


class Ends:
    """Waits for the ends of jobs; whoever waits for the same one shares what is looked up."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self.connection = connection
        self._names = names
        self._lookup = Lookup(connection, names, StateStore(connection, names))
        self._jobs: dict[str, _Awaited] = {}
        self._due: deque[_Awaited] = deque()
        self._looking = 0
        self._polling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self, job_id: str, timeout: float | None) -> JobStatusResponse:
        """Wait for a job's end.

        Args:
            job_id: The job.
            timeout: Seconds to wait; None: for ever.

        Raises:
            JobError: `Timeout`, if it has not ended by then; `NotFound`, if no stream knows the id;
                `RunnerUnavailable`, if the namespace does not exist or the connection was closed. An outage is waited
                out.
        """
        future = self._add(checked_text("a job id", job_id))
        awaited = self._jobs.get(job_id)
        try:
            async with asyncio.timeout(timeout):
                if awaited is not None:
                    await self._listen(awaited)
                outcome = await future
        except TimeoutError as error:
            last = None if awaited is None else awaited.last
            now = "is not known yet" if last is None else f"is {last.status}"
            raise JobError.from_timeout(f"job {job_id} {now} after {timeout:g} s", job_id=job_id) from error
        finally:
            await self._leave(job_id, future)
        if isinstance(outcome, JobError):
            raise outcome
        return outcome

    async def each(self, job_ids: Iterable[str]) -> AsyncGenerator[tuple[str, Outcome], None]:
        """Every job once, as they end; close it to give the others up."""
        ended: asyncio.Queue[str] = asyncio.Queue()
        futures: dict[str, asyncio.Future[Outcome]] = {}
        try:
            for number, job_id in enumerate(dict.fromkeys(job_ids)):
                futures[job_id] = self._add(job_id)
                futures[job_id].add_done_callback(lambda _, job_id=job_id: ended.put_nowait(job_id))  # type: ignore[misc]
                if number % WINDOW == WINDOW - 1:
                    await asyncio.sleep(0)  # others have their turn beside a long list
            behind, listening = deque(futures), set[str]()
            while futures:
                while behind and len(listening) < WINDOW:
                    awaited = self._jobs.get(behind.popleft())
                    if awaited is not None and awaited.job_id in futures:
                        listening.add(awaited.job_id)
                        await self._listen(awaited)
                self.connection.home.check()
                job_id = await ended.get()
                listening.discard(job_id)
                yield job_id, futures.pop(job_id).result()
        finally:
            for job_id, future in futures.items():
                await self._leave(job_id, future)

    # -- the table

    def _add(self, job_id: str) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            checked_id(job_id)
        except JobError as error:
            future.set_result(error)
            return future
        if not self._jobs:
            self.connection.on_reconnect.append(self._look_at_all)
            self._polling = self._spawn(self._poll())
        self._jobs.setdefault(job_id, _Awaited(job_id)).waiting.add(future)
        return future

    async def _listen(self, awaited: _Awaited) -> None:
        """Subscribe to the job's entry, then look at it: what came before is found, what comes after is heard of."""

        def on_hint(_subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
            if may_tell_end(data):
                awaited.follow_ups = list(AFTER_HINT)
                self._look_soon(awaited)

        if not awaited.is_listening:
            awaited.is_listening = True
            try:
                awaited.subscription = await self.connection.receive(self._names.state(awaited.job_id), on_hint)
            except BaseException:
                awaited.is_listening = False  # another who waits for it may yet listen
                raise
            if self._jobs.get(awaited.job_id) is not awaited:
                await self._unsubscribe(awaited)  # it ended, or was given up, in this moment
        self._look_soon(awaited)

    async def _leave(self, job_id: str, future: asyncio.Future[Outcome]) -> None:
        awaited = self._jobs.get(job_id)
        if awaited is not None and future in awaited.waiting:
            awaited.waiting.remove(future)
            if not awaited.waiting:
                await self._forget(awaited)

    async def _forget(self, awaited: _Awaited) -> None:
        self._jobs.pop(awaited.job_id, None)
        if not self._jobs and self._polling is not None:
            self._polling.cancel()
            self._polling = None
            with suppress(ValueError):
                self.connection.on_reconnect.remove(self._look_at_all)
        await self._unsubscribe(awaited)

    async def _unsubscribe(self, awaited: _Awaited) -> None:
        subscription, awaited.subscription = awaited.subscription, None
        if subscription is not None:
            await self.connection.stop_receiving(subscription, drain=False)

    # -- looks

    def _look_soon(self, awaited: _Awaited) -> None:
        if self._jobs.get(awaited.job_id) is not awaited:
            return
        if awaited.is_due:
            awaited.is_due_again = True
            return
        awaited.is_due = True
        self._due.append(awaited)
        if self._looking < _LOOKS_AT_ONCE:
            self._looking += 1
            self._spawn(self._look_at_due())

    async def _look_at_due(self) -> None:
        try:
            while self._due:
                await self._look(self._due.popleft())
        finally:
            self._looking -= 1

    async def _look(self, awaited: _Awaited) -> None:
        awaited.is_due_again = False
        outcome: Outcome | None = None
        try:
            awaited.last = await self._lookup.status(awaited.job_id)
            outcome = awaited.last if awaited.last.status.is_terminal else None
        except JobError as error:
            if not self._may_be_told_later(awaited, error):
                outcome = error
        except Exception as error:
            # Nobody waits for ever for a look that failed for a fault of ours.
            logger.exception("job %s could not be looked up", awaited.job_id)
            text = f"job {awaited.job_id} could not be looked up: see the log"
            outcome = JobError.from_runner_unavailable(text, cause=error)
        finally:
            awaited.is_due = False
        if self._jobs.get(awaited.job_id) is not awaited:
            return
        if outcome is not None:
            for future in awaited.waiting:
                if not future.done():
                    future.set_result(outcome)
            await self._forget(awaited)
        elif awaited.is_due_again:
            self._look_soon(awaited)
        elif awaited.follow_ups:
            asyncio.get_running_loop().call_later(awaited.follow_ups.pop(0), self._look_soon, awaited)

    @staticmethod
    def _may_be_told_later(awaited: _Awaited, error: JobError) -> bool:
        """Whether a look failed for an outage that passes; who never answered is told of at once."""
        if isinstance(error, ConnectionClosed) or not error.is_transient:
            return False
        return awaited.last is not None or isinstance(error, ConnectionLost)

    def _look_at_all(self) -> None:
        for awaited in self._jobs.values():
            self._look_soon(awaited)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_EVERY)
            count = math.ceil(len(self._jobs) * _POLL_EVERY / _POLLED_AFTER)
            for job_id in list(islice(self._jobs, min(count, int(_POLLS_PER_SECOND * _POLL_EVERY)))):
                awaited = self._jobs[job_id] = self._jobs.pop(job_id)  # to the end of the row
                self._look_soon(awaited)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
