"""Keeping deliveries alive: proof, at intervals, that a job is still this worker's, or its handler's end."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.state import StateStore
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.worker")


class LeaseTime:
    """How long a delivery is ours: the server's `ack_wait`, which may be changed while workers run."""

    def __init__(self, ack_wait: float) -> None:
        self.set(ack_wait)

    def set(self, ack_wait: float) -> None:
        """Take another `ack_wait`: seconds without an answer after which the server delivers again."""
        self.ack_wait = ack_wait
        self.margin = min(5.0, max(ack_wait / 6, min(1.5, ack_wait / 3)))
        """Seconds before the end of `ack_wait` at which a delivery no longer counts as ours: a sixth, at most 5 s.

        A server that was killed and started again delivers up to a second early (measured on nats-server 2.15.1: it
        keeps times to the second), so a short `ack_wait` has a larger share of margin.
        """
        self.lease = ack_wait - self.margin
        """Seconds in which a delivery is surely ours."""


class Kept(Protocol):
    """A run whose delivery may need to be kept alive."""

    job_id: str
    context: RequestContext
    delivery: Delivery
    revision: int
    renewing: bool

    def needs_renewal(self) -> bool:
        """Whether it may outlive `ack_wait`."""
        ...

    def lose(self, why: str) -> None:
        """The lease is gone: end the handler and send nothing more."""
        ...


class LeaseKeeper:
    """Renews the leases of runs that may outlive `ack_wait`, every third of it, each after a look at its entry."""

    def __init__(self, state: StateStore, lease_time: LeaseTime) -> None:
        self._state = state
        self._time = lease_time
        self._renewals: set[asyncio.Task[None]] = set()

    def look(self, run: Kept) -> None:
        """Renew the run's lease if it is time; end the run if its lease was not confirmed for too long."""
        if not run.needs_renewal():
            return
        age = run.delivery.age()
        if age >= self._time.lease:
            run.lose(f"the lease was not confirmed for {age:.1f} s")
        elif age >= self._time.ack_wait / 3 and not run.renewing:
            run.renewing = True
            task = asyncio.ensure_future(self._renew(run))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew(self, run: Kept) -> None:
        enter_context(run.context)
        asked_at, revision = time.monotonic(), run.revision
        try:
            found = await self._state.read(run.job_id)
            if not run.needs_renewal() or run.revision != revision:
                # Its handler ended meanwhile: what the entry says now may be its own settlement, or, after a snooze of
                # a moment, its own next attempt.
                return
            if found is not None and found.revision > revision:
                run.lose("another worker took the job")
                return
            if found is None or found.revision < revision:
                return  # a replica that lags behind: no confirmation, and no loss either
            await run.delivery.renew(max(0.1, self._time.lease - run.delivery.age()))
            # What was confirmed is what was true when the entry was asked for.
            run.delivery.taken_at = min(run.delivery.taken_at, asked_at)
        except JobError as error:
            logger.warning("job %s: its lease could not be renewed yet: %s", run.job_id, error)
        finally:
            run.renewing = False
