"""Keep deliveries alive: prove at intervals that a job is still this worker's, or end its handler."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.worker")


class Kept(Protocol):
    """A run whose delivery may need to be kept alive."""

    job_id: str
    context: RequestContext
    delivery: Delivery
    revision: int
    renewing: bool

    def needs_renewal(self) -> bool:
        """Return whether it may outlive `ack_wait`."""
        ...

    def lose(self, why: str) -> None:
        """End the handler and send nothing more: the lease is lost."""
        ...


class LeaseKeeper:
    """Renew the leases of runs that may outlive `ack_wait`, every third of it, each after reading its entry."""

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
                # The handler ended meanwhile: the entry may now show its own settlement or, after a short snooze, its
                # own next attempt.
                return
            if found is not None and found.revision > revision:
                run.lose("another worker took the job")
                return
            if found is None or found.revision < revision:
                return  # a replica that lags behind: no confirmation, and no loss either
            await run.delivery.renew(max(0.1, self._time.lease - run.delivery.age()))
            # The read confirms the lease as of the moment when the entry was requested.
            run.delivery.taken_at = min(run.delivery.taken_at, asked_at)
        except JobError as error:
            logger.warning("job %s: its lease could not be renewed yet: %s", run.job_id, error)
        finally:
            run.renewing = False
