"""Making a delivered job this worker's: asking, waiting for others and asking again, until it is ours or has ended."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Protocol

from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.state import Conflict, Found
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status
from jsjobs.worker.decision import Bury, Cancelled, Decision, Ended, Rebury, Start, Wait, decide, taken_over
from jsjobs.worker.executor import Stop
from jsjobs.worker.settle import Claim
from jsjobs.worker.tools import Tools
from jsjobs.worker.verdict import Outcome

logger = logging.getLogger("jsjobs.worker")
_LOOK_AGAIN = 0.02  # seconds after a lost race


class Earlier(Protocol):
    """A run of the same message which this worker began before."""

    ended: asyncio.Event

    def lose(self, why: str) -> None:
        """End it, with nothing more sent for its delivery."""
        ...


class Claiming:
    """The claim of one delivery."""

    def __init__(self, tools: Tools, delivery: Delivery, job: IncomingJob) -> None:
        self._tools = tools
        self._delivery = delivery
        self._job = job
        self._waiting: asyncio.Future[Any] | None = None
        self.asked: Stop | None = None
        """Why no handler is to begin; None where one may."""

    def stop(self, reason: Stop) -> None:
        """Wait no longer, and give the job back."""
        self.asked = reason
        if self._waiting is not None:
            self._waiting.cancel()

    def lose(self) -> None:
        """Begin nothing any more; what it waits for is waited for still."""
        if self.asked is None:
            self.asked = Stop.LOST

    async def claim(self, earlier: Earlier | None) -> Claim | None:
        """The job with its `processing` entry written, if it is to start; else None, and all is done about it.

        Args:
            earlier: What must end first.
        """
        tools, job = self._tools, self._job
        if earlier is not None:
            # The server gave us a job that we still run: that handler's lease is over, and it must end first.
            earlier.lose("the job was delivered again")
            await self._hold(asyncio.ensure_future(earlier.ended.wait()))
        # A first delivery has no entry as a rule: the write that expects none finds out, one round trip cheaper.
        certain_new = self._delivery.attempt == 1 and job.headers.given_id is None
        found: Found | None = None
        while self.asked is None:
            if not certain_new:
                found = await tools.state.read(job.job_id)
            certain_new = False
            decision = await self._judge(found, took_over=earlier is not None)
            if isinstance(decision, Wait):
                await self._hold(asyncio.ensure_future(asyncio.sleep(decision.seconds)))
            elif isinstance(decision, Start):
                with suppress(Conflict):
                    revision = await tools.state.write(decision.entry, expected=decision.expected)
                    if tools.telemetry is not None and decision.after_loss:
                        tools.telemetry.settled(job.type, job.priority, Outcome.RETRY)
                    return Claim(decision.entry, revision, self._delivery)
                await asyncio.sleep(_LOOK_AGAIN if found else 0)
            else:
                await self._end(decision)
                return None
        tools.settlement.give_back(job.job_id, self._delivery)
        return None

    async def _judge(self, found: Found | None, *, took_over: bool) -> Decision:
        tools, now = self._tools, self._tools.clock()
        server_now = now
        if found is not None and found.entry is not None and found.entry.status is Status.PROCESSING:
            if took_over and found.entry.worker == tools.worker:
                return taken_over(found.entry, found.revision, now, tools.worker)
            server_now = await tools.server_now()
        return decide(
            found, self._job, worker=tools.worker, now=now, server_now=server_now, ack_wait=tools.lease_time.ack_wait
        )

    async def _hold(self, until: asyncio.Future[Any]) -> None:
        """Keep the delivery alive until another run of the job has ended or its lease is over, or the worker stops."""
        self._waiting = until
        # A lost delivery waits on too: the newer one's run takes this one's end for that of all before it.
        while not until.done() and self.asked in {None, Stop.LOST}:
            await asyncio.wait({until}, timeout=self._tools.lease_time.ack_wait / 3)
            with suppress(JobError):
                await self._delivery.renew(self._tools.lease_time.ack_wait / 3)
        until.cancel()
        self._waiting = None

    async def _end(self, decision: Ended | Cancelled | Rebury | Bury) -> None:
        settlement, delivery = self._tools.settlement, self._delivery
        match decision:
            case Ended(why):
                logger.debug("job %s: not run, %s", self._job.job_id, why)
                delivery.ack()
            case Cancelled(entry, expected):
                delivery.ack()
                await settlement.let_age(entry, expected)
            case Rebury(entry):
                await settlement.rebury(entry, delivery)
            case Bury(entry, expected, reason, error):
                logger.error("job %s (%s): the job is dead: %s", entry.job_id, entry.type, error)
                with suppress(Conflict):
                    await settlement.bury(Claim(entry, expected, delivery), reason, error)
