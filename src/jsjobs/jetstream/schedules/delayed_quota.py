"""The quota of delayed jobs of each tenant, counted in the state bucket for all instances together.

The schedule stream cannot refuse what exceeds a quota: a limit of its own would drop jobs it had accepted. So whoever
submits for tenants reserves room first. One entry for each tenant says how many jobs and bytes it has until when. The
entry is changed by compare-and-set. A due job is counted until its queue has taken it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic_core import from_json

from jsjobs.jetstream.api.errors import api_error
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.messages import find_stored
from jsjobs.jetstream.api.publish import PubAck, answer_of
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import WRONG_REVISION
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.delayed import digest
from jsjobs.jetstream.schedules.store import ScheduleChanged
from jsjobs.model.errors import QuotaReached
from jsjobs.model.times import rfc3339

_OF_A_JOB = 1024
"""Approximate bytes of a schedule's headers and of its job's entry."""
_LATE = 10.0
"""Seconds by which a job may fire late."""
_LOOK_AGAIN = 2.0
"""Seconds between two checks for jobs that are due and still there."""
_MOST_SPANS = 1000
_MOST_TENANTS = 10_000
_LAST = 253_402_300_799
"""The last second of the year 9999."""
_KEPT = 3600
"""Seconds for which a tenant's entry outlives its last job."""

Held = dict[int, tuple[int, int]]
"""Jobs and bytes, by the time (seconds since 1970) until which they are counted."""
_Change = Callable[[Held], Awaitable[Held]]


class Reservation(NamedTuple):
    """Room reserved for one delayed job."""

    tenant: str
    until: int
    size: int


class _Account:
    """The known state of one tenant."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.revision = 0
        self.held: Held | None = None
        """None if it must be read first."""


class DelayedQuota:
    """Reserve room for the delayed jobs of tenants.

    Args:
        connection: A connection to the server.
        names: The namespace.
        most_jobs: Limit for the waiting jobs of one tenant.
        most_bytes: Limit for the bytes of those jobs.
        timeout: Seconds to wait for the server.
    """

    def __init__(
        self, connection: Connection, names: Names, *, most_jobs: int, most_bytes: int, timeout: float
    ) -> None:
        self._connection = connection
        self._names = names
        self._most_jobs = most_jobs
        self._most_bytes = most_bytes
        self._timeout = timeout
        self._accounts: dict[str, _Account] = {}
        self._looked_at = float("-inf")
        self._left_until = 0.0

    async def reserve(self, tenant: str, due: datetime, body_bytes: int) -> Reservation:
        """Count one more job of a tenant, until it has left for its queue.

        Args:
            tenant: The job's tenant.
            due: When the job is due.
            body_bytes: The size of its payload.

        Raises:
            QuotaReached: If the tenant has as many jobs, or as many bytes, as it may.
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        now = time.time()
        one = Reservation(tenant, _counted_until(due.timestamp(), now), body_bytes + _OF_A_JOB)

        async def add(held: Held) -> Held:
            jobs, size = _sum(held)
            if jobs >= self._most_jobs or size + one.size > self._most_bytes or len(held) > _MOST_SPANS:
                left_until = await self._what_left()
                held = {until: each for until, each in held.items() if until + _LATE > left_until}
                jobs, size = _sum(held)
            if jobs >= self._most_jobs or size + one.size > self._most_bytes:
                raise self._reached(one, jobs, size, held)
            before = held.get(one.until, (0, 0))
            return {**held, one.until: (before[0] + 1, before[1] + one.size)}

        await self._change(tenant, add)
        return one

    async def give_back(self, one: Reservation) -> None:
        """Stop counting a job that was not scheduled, or whose place another job has taken.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """

        async def take(held: Held) -> Held:
            jobs, size = held.get(one.until, (0, 0))
            rest = {until: each for until, each in held.items() if until != one.until}
            return rest | ({one.until: (jobs - 1, max(0, size - one.size))} if jobs > 1 else {})

        await self._change(one.tenant, take)

    def _reached(self, one: Reservation, jobs: int, size: int, held: Held) -> QuotaReached:
        first = min(held, default=one.until)
        when = f"the first of them leave at {rfc3339(datetime.fromtimestamp(first, UTC))}"
        if first <= time.time():
            when = "the first of them are due, and wait for room in their queues"
        return QuotaReached(
            f"the quota of delayed jobs is used up: {jobs} jobs with {size} bytes wait, the limit is {self._most_jobs} "
            f"with {self._most_bytes} bytes (JSJOBS_TENANT_DELAYED_JOBS, JSJOBS_TENANT_DELAYED_BYTES), and this one "
            f"has {one.size} bytes: nothing was queued; {when}, try again then"
        )

    async def _what_left(self) -> float:
        """Return the time up to which all due jobs have left the schedule stream.

        A router clears away what the queues have taken.
        """
        now = time.time()
        if time.monotonic() - self._looked_at > _LOOK_AGAIN:
            request: MessageRequest = {"seq": 1, "next_by_subj": f"{self._names.namespace}.due.>"}
            oldest = await find_stored(self._connection, self._names.schedule_stream, request)
            self._left_until = now if oldest is None else min(now, oldest.stored_at.timestamp())
            self._looked_at = time.monotonic()
        return self._left_until

    # -- the entry

    async def _change(self, tenant: str, change: _Change) -> None:
        if len(self._accounts) >= _MOST_TENANTS:
            self._accounts = {name: each for name, each in self._accounts.items() if each.lock.locked()}
        account = self._accounts.setdefault(tenant, _Account())
        subject = self._names.quota(digest(tenant))

        async def once() -> None:
            if account.held is None:
                await self._read(account, subject)
            assert account.held is not None
            held, account.held = account.held, None  # after a failed write the entry is read again
            try:
                wanted = await change(held)
            except QuotaReached:
                account.held = held
                raise
            account.revision = await self._write(subject, wanted, account.revision)
            account.held = wanted

        text = "too many submits change the quota of this tenant at once: nothing was queued, try again"
        async with account.lock:
            await settled(once, within=self._timeout, else_say=text)

    async def _read(self, account: _Account, subject: bytes) -> None:
        found = await find_stored(self._connection, self._names.state_stream, {"last_by_subj": subject.decode()})
        account.revision = 0 if found is None else found.sequence
        account.held = {} if found is None else _parse(found.data)

    async def _write(self, subject: bytes, held: Held, revision: int) -> int:
        lives = max(held, default=0) - time.time() + _KEPT
        header = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nNats-TTL: %ds\r\n\r\n"
        body = json.dumps({str(until): each for until, each in held.items()}).encode()
        reply = await self._connection.ask(
            subject, body, header=header % (revision, max(_KEPT, int(lives))), timeout=self._timeout
        )
        answer = answer_of(reply)
        if isinstance(answer, PubAck):
            return answer.sequence
        if answer.err_code in WRONG_REVISION:
            raise ScheduleChanged
        raise api_error(answer, "counting the delayed jobs of a tenant")


def _counted_until(due: float, now: float) -> int:
    """Return the end of the time span in which a job is counted.

    The later a job is due the longer is its span, so that there are only a few.
    """
    span = 60 << max(0, int((due - now) / 960)).bit_length()
    return (int(due) // span + 1) * span


def _sum(held: Held) -> tuple[int, int]:
    return sum(jobs for jobs, _ in held.values()), sum(size for _, size in held.values())


def _parse(data: bytes) -> Held:
    """Return the contents of an entry; an entry that cannot be read, such as an expiry marker, counts as empty."""
    try:
        held = {int(until): (int(jobs), int(size)) for until, (jobs, size) in from_json(data).items()}
    except (ValueError, OverflowError, TypeError, AttributeError):
        return {}
    is_possible = all(0 < until < _LAST and jobs > 0 and size >= 0 for until, (jobs, size) in held.items())
    return held if is_possible else {}
