"""Take one delivery from its arrival to its settlement: claim the job, run one attempt, settle its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from jsjobs.handlers.attempt_limits import with_terms
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import Registration, Registry
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.jetstream.jobs.progress import ProgressSender, Reporter
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.checks import shortened
from jsjobs.model.context import enter_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration
from jsjobs.model.retry import Retry
from jsjobs.safe_log import get_logger
from jsjobs.worker.claim import Claims
from jsjobs.worker.executor import Handling, Pools, execute
from jsjobs.worker.intake.slots import Slot
from jsjobs.worker.job_run import JobRun, RunKey
from jsjobs.worker.result import Outcome, SnoozeFor, Verdict
from jsjobs.worker.run_state import State
from jsjobs.worker.settlement import Claim, Settlement
from jsjobs.worker.timeouts import TimeLimits

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry
    from jsjobs.telemetry.spans import Attempt

logger = get_logger("jsjobs.worker")
_MOST_TYPES = 500
"""Characters of the list of a worker's types in an error, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Run one worker's attempts."""

    registry: Registry
    pools: Pools
    limits: TimeLimits
    lease_time: LeaseTime
    retry: Retry
    max_attempts: int | None
    """The attempts of a job for which neither its publisher nor its handler sets them; None if nobody does."""
    grace: float
    """Seconds between the interruptions of a handler that does not end."""
    progress: ProgressSender
    settlement: Settlement
    clock: Callable[[], datetime]
    is_torn_down: Callable[[], bool]
    """Returns whether everything in this event loop is being cancelled, this worker too."""
    telemetry: Telemetry | None = None

    def terms(self, job: IncomingJob, registration: Registration | None) -> IncomingJob:
        """Return a job with the terms that its handler, or this worker, sets where its publisher set none."""
        own = None if registration is None else registration.max_attempts
        attempts = self.max_attempts if own is None else own
        if attempts is None and job.headers.timeout is None:
            return job
        return with_terms(job, attempts, self.lease_time.lease)

    async def run(self, run: JobRun, claim: Claim) -> bool:
        """Run the handler, unless it is to end before it begins; settle the job.

        Returns:
            Whether the handler snoozed: the delivery is still this worker's, for the next attempt. Otherwise it is done
            with.
        """
        job, entry, delivery = run.job, claim.entry, claim.delivery
        reporter = Reporter(self.progress, job.job_id)
        time = self.lease_time
        # If the claim took long, a renewal gives the handler its whole time.
        lease = time.lease if delivery.age() <= time.margin else await self._renewed(delivery)
        if lease <= 0:
            delivery.lost = True  # claiming it took longer than the lease
        handling = Handling(_context(job, claim, reporter), self.grace, self.limits, self.is_torn_down)
        early = run.asked_early()
        if early is not None:
            handling.stop(early)
        attempt: Attempt | None = None
        if self.telemetry is not None and early is None:
            stream, now = job.carrier.stream, self.clock()
            attempt = self.telemetry.begin(run.context, job.priority, entry, stream=stream, now=now)
            handling.attempt = attempt
        run.handling = handling
        run.to(State.RUNNING)
        verdict: Verdict | None = None
        outcome = Outcome.LOST
        try:
            verdict = await execute(
                entry,
                partial(self._handler_of, run),
                handling,
                self.pools,
                limit=_limit(job, lease),
                policy=self.retry,
                clock=self.clock,
            )
            run.handling = None
            run.to(State.SETTLING)
            reporter.close()
            if attempt is not None:
                attempt.handled()
            outcome = await self.settlement.apply(claim, verdict)
        finally:
            if attempt is not None:
                attempt.end(outcome, verdict)
        if outcome is not Outcome.SNOOZED or not isinstance(verdict, SnoozeFor) or claim.delivery.is_parallel:
            return False
        run.left = verdict.delay
        run.to(State.SNOOZED)
        return True

    async def _renewed(self, delivery: Delivery) -> float:
        """Renew a delivery; return the seconds for which it is surely ours from now on."""
        time = self.lease_time
        with suppress(JobError):
            await delivery.renew(time.margin)
            return time.lease
        return time.lease - delivery.age()

    def _handler_of(self, run: JobRun) -> tuple[Registration, bytes]:
        job, registration = run.job, run.registration
        if job.problem is not None:
            raise job.problem
        if registration is None:
            known = shortened(", ".join(self.registry.types) or "none", _MOST_TYPES)
            raise JobError.from_handler_missing(f"no handler for {job.type[:200]!r}; this worker has: {known}")
        return registration, job.data


class JobRunner:
    """Run the deliveries of one worker."""

    def __init__(self, names: Names, registry: Registry, claims: Claims, attempts: Attempts) -> None:
        self._names = names
        self._registry = registry
        self._claims = claims
        self._attempts = attempts
        self.loop = attempts.limits.loop
        """The worker's event loop, for the tasks of `run`."""

    def take(self, delivery: Delivery, slot: Slot, runs: Mapping[RunKey, JobRun]) -> JobRun | None:
        """Take a delivery in hand.

        Args:
            delivery: The delivery.
            slot: Its slot.
            runs: The runs that the worker has in hand.

        Returns:
            Its run, for `run`; None if another run of the same message goes on with the delivery.
        """
        job = delivery.job(self._names)
        earlier = runs.get((job.carrier.stream, delivery.sequence))
        if earlier is not None and earlier.goes_on_with(delivery, self._attempts.lease_time.lease):
            return None
        registration = self._registry.get(job.type)
        return JobRun(delivery, self._attempts.terms(job, registration), registration, slot, earlier)

    async def note_return(self, run: JobRun, delay: float) -> None:
        """Write that a job was given back for want of room, then give it back; see `Claims.note_return`."""
        try:
            await self._claims.note_return(run)
        except JobError as error:
            logger.warning("job %s: that it waits for room is not noted: %s", run.job_id, error)
        except Exception:
            logger.exception("job %s: that it waits for room is not noted", run.job_id)
        run.delivery.nak(delay)

    async def run(self, run: JobRun) -> None:
        """Claim the job, run its handler, settle it; whatever goes wrong, the server redelivers the job.

        Each attempt of a job that snoozes is another call, from a task of its own, so that the next attempt does not
        see what a handler left in its context variables.
        """
        enter_context(run.context)
        goes_on = False
        try:
            claim = await self._claims.claim(run)
            goes_on = claim is not None and await self._attempts.run(run, claim)
        except JobError as error:
            logger.warning("job %s: not settled, the server will deliver it again: %s", run.job_id, error)
        except Exception:
            logger.exception("job %s: not settled, the server will deliver it again", run.job_id)
        finally:
            run.handling = None
            if not goes_on:
                run.end()


def _context(job: IncomingJob, claim: Claim, reporter: Reporter) -> JobContext:
    own = job.headers
    what = job.job_id, job.type, job.priority, job.shard, claim.entry.attempts, claim.revision
    # By position: keyword arguments cost twice as much.
    return JobContext(*what, own.entity, own.tenant, own.request_id, own.batch_id, False, reporter.report)


def _limit(job: IncomingJob, lease: float) -> float | None:
    """Return the seconds that a handler may take; None for no limit."""
    own = job.headers.timeout
    if job.headers.duration is Duration.LONG:
        return own
    return lease if own is None else min(own, lease)
