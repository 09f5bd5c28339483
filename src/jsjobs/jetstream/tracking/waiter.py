"""Wait for the ends of many jobs at once, without a consumer on the server: one table serves all waiters.

Each job has a `Follower`, which says when its entry is read. Hints may be lost: so all jobs are read after a new
connection, and a slow poll, whose rate is bounded for the whole table, reads them in turn.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.job_ids import checked_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.tracking.follower import Follower, may_tell_end
from jsjobs.jetstream.tracking.lookup import Lookup
from jsjobs.model.checks import checked_text
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.following")

WINDOW = 1000
"""Jobs of one list that have a subscription at once, at most; later ones are only polled until it is their turn."""
_LOOKS_AT_ONCE = 64
_POLL_EVERY = 0.5
_POLLED_AFTER = 1.0
"""Seconds between two polls of a job, if few are awaited."""
_POLLS_PER_SECOND = 200
"""The rate of polls, if many are awaited."""

Outcome = JobStatusResponse | JobError
"""The end of a job, or the reason why it will not be known."""


@dataclass(slots=True, eq=False)
class _Awaited:
    job_id: str
    follower: Follower[JobStatusResponse]
    waiting: set[asyncio.Future[Outcome]] = field(default_factory=set)
    last: JobStatusResponse | None = None


class JobWaiter:
    """Wait for the ends of jobs; all who wait for the same job share its reads."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self.connection = connection
        self._names = names
        self._lookup = Lookup(connection, names, StateStore(connection, names))
        self._jobs: dict[str, _Awaited] = {}
        self._due: deque[str] = deque()
        self._looking = 0
        self._polling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self, job_id: str, timeout: float | None) -> JobStatusResponse:
        """Wait for a job's end.

        Args:
            job_id: The job.
            timeout: Seconds to wait; None to wait for ever.

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
        """Yield every job once, as they end; close it to give up the others."""
        ended: asyncio.Queue[str] = asyncio.Queue()
        futures: dict[str, asyncio.Future[Outcome]] = {}
        try:
            for number, job_id in enumerate(dict.fromkeys(job_ids)):
                futures[job_id] = self._add(job_id)
                futures[job_id].add_done_callback(lambda _, job_id=job_id: ended.put_nowait(job_id))  # type: ignore[misc]
                if number % WINDOW == WINDOW - 1:
                    await asyncio.sleep(0)  # a long list must not hold up other tasks
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
        awaited = self._jobs.get(job_id)
        if awaited is None:
            read, on_due = partial(self._lookup.status, job_id), partial(self._on_due, job_id)
            follower = Follower(self.connection, read, on_due, waits_for_server=True)
            awaited = self._jobs[job_id] = _Awaited(job_id, follower)
        awaited.waiting.add(future)
        return future

    async def _listen(self, awaited: _Awaited) -> None:
        """Subscribe to the job's entry, then read it: the read finds earlier changes, the subscription later ones."""
        await awaited.follower.listen(self._names.state(awaited.job_id), may_tell_end)
        awaited.follower.read_soon()

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
        await awaited.follower.close()

    # -- looks

    def _on_due(self, job_id: str) -> None:
        self._due.append(job_id)
        if self._looking < _LOOKS_AT_ONCE:
            self._looking += 1
            self._spawn(self._look_at_due())

    async def _look_at_due(self) -> None:
        try:
            while self._due:
                awaited = self._jobs.get(self._due.popleft())
                if awaited is not None and awaited.follower.is_due:  # nobody has given it up meanwhile
                    await self._look(awaited)
        finally:
            self._looking -= 1

    async def _look(self, awaited: _Awaited) -> None:
        try:
            found = await awaited.follower.read()
            if found is None:
                return
            awaited.last = found
            if not found.status.is_terminal:
                return
            outcome: Outcome = found
        except JobError as error:
            outcome = error
        except Exception as error:
            # Nobody must wait for ever because of a bug of ours in a read.
            logger.exception("job %s could not be looked up", awaited.job_id)
            text = f"job {awaited.job_id} could not be looked up: see the log"
            outcome = JobError.from_runner_unavailable(text, cause=error)
        if self._jobs.get(awaited.job_id) is awaited:
            for future in awaited.waiting:
                if not future.done():
                    future.set_result(outcome)
            await self._forget(awaited)

    def _look_at_all(self) -> None:
        for awaited in self._jobs.values():
            awaited.follower.read_soon()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_EVERY)
            count = math.ceil(len(self._jobs) * _POLL_EVERY / _POLLED_AFTER)
            for job_id in list(islice(self._jobs, min(count, int(_POLLS_PER_SECOND * _POLL_EVERY)))):
                awaited = self._jobs[job_id] = self._jobs.pop(job_id)  # to the end of the table
                awaited.follower.read_soon()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
