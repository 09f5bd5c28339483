"""One delivery from its arrival to its settlement, and what others may ask of it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.model.context import enter_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger
from jsjobs.worker.attempt import JobAttempt
from jsjobs.worker.claiming import Claiming
from jsjobs.worker.executor import Handling, Stop
from jsjobs.worker.place import Place
from jsjobs.worker.terms import with_terms
from jsjobs.worker.tools import Tools

logger = get_logger("jsjobs.worker")
RunKey = tuple[Priority, int]
"""Priority and stream sequence: the message that a run is of."""


class JobRun:
    """A delivery in this worker's hands."""

    def __init__(
        self, tools: Tools, delivery: Delivery, runs: Mapping[RunKey, JobRun], place: Place | None = None
    ) -> None:
        self._tools = tools
        self.place = place
        """Where the worker has a bound."""
        self.delivery = delivery
        self.job: IncomingJob = delivery.job(tools.names)
        self._registration = registration = tools.registry.get(self.job.type)
        own = None if registration is None else registration.max_attempts
        attempts = tools.max_attempts if own is None else own
        if attempts is not None or self.job.headers.timeout is not None:
            self.job = with_terms(self.job, attempts, tools.lease_time.lease)
        self.job_id = self.job.job_id
        self.context = self.job.context()
        # By its message, not its id: another copy of a given id is no redelivery of this one.
        self.key: RunKey = (self.job.priority, delivery.sequence)
        self._earlier = runs.get(self.key)
        self.revision = 0
        self.renewing = False
        self._is_over = False
        self._ended: asyncio.Event | None = None
        self._claiming = Claiming(tools, delivery, self.job, place)
        self._attempt: JobAttempt | None = None
        self._is_cancelled = False
        self._snoozed: float | None = None

    @property
    def ended(self) -> asyncio.Event:
        """Set when the run is over; made when it is asked for, since for most nobody waits."""
        if self._ended is None:
            self._ended = asyncio.Event()
            if self._is_over:
                self._ended.set()
        return self._ended

    @property
    def _handling(self) -> Handling | None:
        return None if self._attempt is None else self._attempt.handling

    @property
    def is_snoozed(self) -> bool:
        """Whether its handler snoozed, and `run` is to be called again."""
        return self._snoozed is not None

    def goes_on_elsewhere(self) -> bool:
        """Leave a message that is delivered again to the run of it that this worker has, while its lease holds."""
        return self._earlier is not None and self._earlier.goes_on_with(self.delivery)

    def goes_on_with(self, newer: Delivery) -> bool:
        """Answer through a newer delivery of the message from now on; False where this run must end, or has none begun.

        A server that was started again, or a new leader, delivers early; a consumer that was made anew knows of no
        delivery before. Neither says anything about the attempt that runs here.
        """
        handling, mine = self._handling, self.delivery
        if self._attempt is None or mine.lost or (handling is not None and handling.asked is Stop.LOST):
            return False
        # The number of a consumer made anew begins again at 1. The lease is that of the last renewal: the next one,
        # which looks at the entry first, tells whether the job is still ours.
        if newer.attempt > 1 and mine.age() >= self._tools.lease_time.lease:
            return False
        mine.answer_through(newer)
        return True

    def needs_renewal(self) -> bool:
        """Whether a handler runs, long or short: a short one that is past its limit may still need time to end."""
        handling = self._handling
        return handling is not None and handling.asked is not Stop.LOST

    def lose(self, why: str) -> None:
        """End the handler, or do not begin it; nothing more is sent for this delivery."""
        self.delivery.lost = True
        if (handling := self._handling) is not None:
            handling.stop(Stop.LOST, why)
        else:
            self._claiming.lose()

    def wind_down(self) -> None:
        """Start no further attempt: a job that has not started is given back, a running handler goes on."""
        self._claiming.stop(Stop.RELEASE)

    def stop(self, reason: Stop) -> None:
        """End the run early: a running handler is interrupted, a job that has not started is given back."""
        self._claiming.stop(reason)
        if (handling := self._handling) is not None:
            handling.stop(reason)

    def cancel(self) -> bool:
        """End the job: a running handler is interrupted, one that has not begun never does; whether this is news."""
        is_news, self._is_cancelled = not self._is_cancelled, True
        self._claiming.wake()
        if (handling := self._handling) is not None:
            handling.stop(Stop.CANCEL)
        return is_news

    def begin(self) -> asyncio.Task[None]:
        """`run`, in a task of its own."""
        return self._tools.limits.loop.create_task(self.run(), name=self.job_id)

    async def run(self) -> None:
        """Claim the job, run its handler, settle it; whatever goes wrong, the job comes back by its own redelivery.

        Each attempt of a job that snoozes is another call, from a task of its own: what a handler leaves in its context
        is not there for the next.
        """
        enter_context(self.context)
        snoozed, self._snoozed = self._snoozed, None
        earlier, self._earlier = self._earlier, None
        try:
            claim = await self._claiming.claim(earlier, after=self.revision, snoozed=snoozed or 0)
            if claim is not None:
                self.revision = claim.revision
                self._attempt = JobAttempt(self._tools, self.job, claim, self._registration)
                self._snoozed = await self._attempt.run(self.context, self._asked_early)
        except JobError as error:
            logger.warning("job %s: not settled, the server will deliver it again: %s", self.job_id, error)
        except Exception:
            logger.exception("job %s: not settled, the server will deliver it again", self.job_id)
        finally:
            self._attempt = None
            if not self.is_snoozed:
                self._is_over = True
                if self._ended is not None:
                    self._ended.set()

    def _asked_early(self) -> Stop | None:
        if self._is_cancelled:
            return Stop.CANCEL
        if self._claiming.asked is not None or self.delivery.lost:
            # Its handler has not begun: it costs no attempt.
            return Stop.RELEASE
        return None
