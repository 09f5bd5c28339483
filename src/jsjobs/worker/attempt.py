"""One attempt at a claimed job: what its handler is told, how long it may take, and the settlement of its outcome."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.progress import Reporter
from jsjobs.model.checks import shortened
from jsjobs.model.context import RequestContext
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration
from jsjobs.worker.context import JobContext
from jsjobs.worker.executor import Handling, Stop, execute
from jsjobs.worker.registry import Registration
from jsjobs.worker.settle import Claim
from jsjobs.worker.tools import Tools
from jsjobs.worker.verdict import Outcome, SnoozeFor, Verdict

if TYPE_CHECKING:
    from jsjobs.telemetry.spans import Attempt

_MOST_TYPES = 500
"""Characters of the list of types that a worker has."""


class JobAttempt:
    """Runs the handler of a job that is this worker's, and settles what it ends in."""

    def __init__(self, tools: Tools, job: IncomingJob, claim: Claim, registration: Registration | None) -> None:
        self._tools = tools
        self._job = job
        self._claim = claim
        self._registration = registration
        self.handling: Handling | None = None
        """Where the handler can be interrupted: while it runs."""

    async def run(self, request: RequestContext, early: Callable[[], Stop | None]) -> float | None:
        """Run the handler, unless it is to end before it begins; settle the job.

        Args:
            request: What the attempt is recorded under.
            early: Why the handler is not to begin, asked at the last moment; None where it is.

        Returns:
            Seconds, if the handler snoozed: the delivery is still this worker's. None: it is done with.
        """
        tools, job, claim = self._tools, self._job, self._claim
        entry, delivery = claim.entry, claim.delivery
        reporter = Reporter(tools.progress, job.job_id)
        context = self._context(reporter.report)
        time = tools.lease_time
        # Where the claim took long, the handler's whole time is asked for.
        lease = time.lease if delivery.age() <= time.margin else await self._renewed()
        if lease <= 0:
            delivery.lost = True  # claiming it took longer than the lease
        handling = self.handling = Handling(context, tools.grace, tools.limits, tools.is_torn_down)
        asked = early()
        if asked is not None:
            handling.stop(asked)
        attempt: Attempt | None = None
        if tools.telemetry is not None and handling.asked is None:
            stream, now = job.carrier.stream, tools.clock()
            attempt = tools.telemetry.begin(request, job.priority, entry, stream=stream, now=now)
            handling.attempt = attempt
        verdict: Verdict | None = None
        outcome = Outcome.LOST
        try:
            verdict = await execute(
                entry,
                self._read,
                handling,
                tools.places,
                limit=self._limit(lease),
                policy=tools.retry,
                clock=tools.clock,
            )
            self.handling = None
            reporter.close()
            if attempt is not None:
                attempt.handled()
            outcome = await tools.settlement.apply(claim, verdict)
        finally:
            if attempt is not None:
                attempt.end(outcome, verdict)
        return verdict.delay if outcome is Outcome.SNOOZED and isinstance(verdict, SnoozeFor) else None

    def _context(self, report: Callable[[float, str | None], None]) -> JobContext:
        job, claim, own = self._job, self._claim, self._job.headers
        what = job.job_id, job.type, job.priority, job.shard, claim.entry.attempts, claim.revision
        # By position: with names it costs twice as much.
        return JobContext(*what, own.entity, own.tenant, own.request_id, own.batch_id, False, report)

    async def _renewed(self) -> float:
        """Renew the delivery; the seconds for which it is surely ours from now on."""
        time, delivery = self._tools.lease_time, self._claim.delivery
        with suppress(JobError):
            await delivery.renew(time.margin)
            return time.lease
        return time.lease - delivery.age()

    def _limit(self, lease: float) -> float | None:
        headers = self._job.headers
        own = headers.timeout
        if headers.duration is Duration.LONG:
            return own
        return lease if own is None else min(own, lease)

    def _read(self) -> tuple[Registration, bytes]:
        job, registration = self._job, self._registration
        if job.problem is not None:
            raise job.problem
        if registration is None:
            known = shortened(", ".join(self._tools.registry.types) or "none", _MOST_TYPES)
            raise JobError.from_handler_missing(f"no handler for {job.type[:200]!r}; this worker has: {known}")
        return registration, job.data
