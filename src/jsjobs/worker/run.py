"""One delivery from its arrival to its settlement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.progress import ProgressSender
from jsjobs.jetstream.state import Conflict, Found, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.context import enter_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration, Priority, Status
from jsjobs.model.retry import Retry
from jsjobs.worker.claim import Bury, Cancelled, Decision, Ended, Rebury, Start, Wait, decide, taken_over
from jsjobs.worker.context import JobContext
from jsjobs.worker.executor import Handling, Places, Stop, execute
from jsjobs.worker.lease import LeaseTime
from jsjobs.worker.registry import Registration, Registry
from jsjobs.worker.settle import Claim, Settlement
from jsjobs.worker.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry
    from jsjobs.telemetry.spans import Attempt

logger = logging.getLogger("jsjobs.worker")
RunKey = tuple[Priority, int]
"""Priority and stream sequence: the message that a run is of."""
_LOOK_AGAIN = 0.02  # seconds after a lost race


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every run of a worker shares."""

    worker: str
    names: Names
    state: StateStore
    settlement: Settlement
    registry: Registry
    places: Places
    progress: ProgressSender
    retry: Retry
    lease_time: LeaseTime
    grace: float
    """Seconds between the interruptions of a handler that does not end."""
    clock: Callable[[], datetime]
    server_now: Callable[[], Awaitable[datetime]]
    """The server's clock."""
    telemetry: Telemetry | None = None


class JobRun:
    """A delivery in this worker's hands."""

    def __init__(self, tools: Tools, delivery: Delivery, runs: Mapping[RunKey, JobRun]) -> None:
        self._tools = tools
        self.delivery = delivery
        self.job: IncomingJob = delivery.job(tools.names)
        self.job_id = self.job.job_id
        self.context = self.job.context()
        # By its message, not its id: another copy of a given id is no redelivery of this one.
        self.key: RunKey = (self.job.priority, delivery.sequence)
        self._earlier = runs.get(self.key)
        self.revision = 0
        self.renewing = False
        self.ended = asyncio.Event()
        self._handling: Handling | None = None
        self._stop: Stop | None = None
        self._is_cancelled = False
        self._waiting: asyncio.Future[Any] | None = None

    @property
    def has_started(self) -> bool:
        """Whether its handler runs."""
        return self._handling is not None

    def needs_renewal(self) -> bool:
        """Whether a handler runs, long or short: a short one that is past its limit may still need time to end."""
        handling = self._handling
        return handling is not None and handling.asked() is not Stop.LOST

    def lose(self, why: str) -> None:
        """End the handler, or do not begin it; nothing more is sent for this delivery."""
        self.delivery.lost = True
        if self._handling is not None:
            self._handling.stop(Stop.LOST, why)
        elif self._stop is None:
            self._stop = Stop.LOST

    def stop(self, reason: Stop) -> None:
        """End the run early: a running handler is interrupted, a job that has not started is given back."""
        self._stop = reason
        if self._handling is not None:
            self._handling.stop(reason)
        elif self._waiting is not None:
            self._waiting.cancel()

    def cancel(self) -> None:
        """End the job: a running handler is interrupted, one that has not begun never does."""
        self._is_cancelled = True
        if self._handling is not None:
            self._handling.stop(Stop.CANCEL)

    async def run(self) -> None:
        """Claim the job, run its handler, settle it; whatever goes wrong, the job comes back by its own redelivery."""
        enter_context(self.context)
        try:
            decision = await self._decide()
            if isinstance(decision, Start):
                await self._handle(Claim(decision.entry, self.revision, self.delivery))
            elif decision is not None:
                await self._end(decision)
        except JobError as error:
            logger.warning("job %s: not settled, the server will deliver it again: %s", self.job_id, error)
        except Exception:
            logger.exception("job %s: not settled, the server will deliver it again", self.job_id)
        finally:
            self.ended.set()

    async def _decide(self) -> Decision | None:
        """The decision, with the `processing` entry written if it is to start; None where the worker stops first."""
        tools, job = self._tools, self.job
        took_over = False
        if self._earlier is not None:
            # The server gave us a job that we still run: that handler's lease is over, and it must end first.
            self._earlier.lose("the job was delivered again")
            await self._hold(asyncio.ensure_future(self._earlier.ended.wait()))
            took_over = True
        # A first delivery has no entry as a rule: the write that expects none finds out, one round trip cheaper.
        certain_new = self.delivery.attempt == 1 and job.headers.given_id is None
        found: Found | None = None
        while self._stop is None:
            if not certain_new:
                found = await tools.state.read(self.job_id)
            certain_new = False
            decision = await self._judge(found, took_over=took_over)
            if isinstance(decision, Wait):
                await self._hold(asyncio.ensure_future(asyncio.sleep(decision.seconds)))
            elif isinstance(decision, Start):
                with suppress(Conflict):
                    self.revision = await tools.state.write(decision.entry, expected=decision.expected)
                    if tools.telemetry is not None and decision.after_loss:
                        tools.telemetry.settled(job.type, job.priority, Outcome.RETRY)
                    return decision
                await asyncio.sleep(_LOOK_AGAIN if found else 0)
            else:
                return decision
        tools.settlement.give_back(self.job_id, self.delivery)
        return None

    async def _judge(self, found: Found | None, *, took_over: bool) -> Decision:
        tools, now = self._tools, self._tools.clock()
        server_now = now
        if found is not None and found.entry is not None and found.entry.status is Status.PROCESSING:
            if took_over and found.entry.worker == tools.worker:
                return taken_over(found.entry, found.revision, now, tools.worker)
            server_now = await tools.server_now()
        return decide(
            found, self.job, worker=tools.worker, now=now, server_now=server_now, ack_wait=tools.lease_time.ack_wait
        )

    async def _hold(self, until: asyncio.Future[Any]) -> None:
        """Keep the delivery alive until another run of the job has ended or its lease is over, or the worker stops."""
        self._waiting = until
        # A lost delivery waits on too: the newer one's run takes this one's end for that of all before it.
        while not until.done() and self._stop in {None, Stop.LOST}:
            await asyncio.wait({until}, timeout=self._tools.lease_time.ack_wait / 3)
            with suppress(JobError):
                await self.delivery.renew(self._tools.lease_time.ack_wait / 3)
        until.cancel()
        self._waiting = None

    async def _end(self, decision: Decision) -> None:
        settlement = self._tools.settlement
        match decision:
            case Ended(why):
                logger.debug("job %s: not run, %s", self.job_id, why)
                self.delivery.ack()
            case Cancelled(entry, expected):
                self.delivery.ack()
                await settlement.let_age(entry, expected)
            case Rebury(entry):
                await settlement.rebury(entry, self.delivery)
            case Bury(entry, expected, reason, error):
                logger.error("job %s (%s): the job is dead: %s", entry.job_id, entry.type, error)
                with suppress(Conflict):
                    await settlement.bury(Claim(entry, expected, self.delivery), reason, error)

    async def _handle(self, claim: Claim) -> None:
        tools, job, entry = self._tools, self.job, claim.entry
        context = JobContext(
            job_id=job.job_id,
            type=job.type,
            priority=job.priority,
            shard=job.shard,
            attempt=entry.attempts,
            fence=claim.revision,
            entity=job.headers.entity,
            tenant_id=job.headers.tenant,
            request_id=job.headers.request_id,
            batch_id=job.headers.batch_id,
        )
        reporter = tools.progress.reporter(job.job_id)
        context._report = reporter.report  # noqa: SLF001 - set once, here, and nobody else's business
        lease = await self._lease()
        if lease <= 0:
            self.delivery.lost = True  # claiming it took longer than the lease
        handling = self._handling = Handling(context, tools.grace)
        if self._is_cancelled:
            handling.stop(Stop.CANCEL)
        elif self._stop is not None or self.delivery.lost:
            # Its handler has not begun: it costs no attempt.
            handling.stop(Stop.RELEASE)
        attempt: Attempt | None = None
        if tools.telemetry is not None and handling.asked() is None:
            stream, now = job.carrier.stream, tools.clock()
            attempt = tools.telemetry.begin(self.context, job.priority, entry, stream=stream, now=now)
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
            self._handling = None
            reporter.close()
            if attempt is not None:
                attempt.handled()
            outcome = await tools.settlement.apply(claim, verdict)
        finally:
            if attempt is not None:
                attempt.end(outcome, verdict)

    async def _lease(self) -> float:
        """Seconds for which the delivery is surely ours from now on."""
        time = self._tools.lease_time
        if self.delivery.age() <= time.margin:
            return time.lease
        # The claim took long: ask for the handler's whole time.
        with suppress(JobError):
            await self.delivery.renew(time.margin)
            return time.lease
        return time.lease - self.delivery.age()

    def _limit(self, lease: float) -> float | None:
        own = self.job.headers.timeout
        if self.job.headers.duration is Duration.LONG:
            return own
        return lease if own is None else min(own, lease)

    def _read(self) -> tuple[Registration, Any]:
        if self.job.problem is not None:
            raise self.job.problem
        registration = self._tools.registry.get(self.job.type)
        if registration is None:
            known = ", ".join(self._tools.registry.types) or "none"
            raise JobError.from_handler_missing(
                f"no handler for {self.job.type[:200]!r}; this worker has: {known[:500]}"
            )
        return registration, registration.read_payload(self.job.data)
