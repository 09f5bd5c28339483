"""Making a delivered job this worker's: asking, waiting for others and asking again, until it is ours or has ended."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from jsjobs.jetstream.delivery import Delivery
from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.state import Conflict, Found
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status
from jsjobs.safe_log import get_logger
from jsjobs.worker.decision import (
    Bury,
    Cancelled,
    Decision,
    Ended,
    Expire,
    LetGo,
    Rebury,
    Sleep,
    Start,
    Wait,
    decide,
    new_start,
    taken_over,
)
from jsjobs.worker.executor import Stop
from jsjobs.worker.place import Place
from jsjobs.worker.settle import Claim
from jsjobs.worker.tools import Tools
from jsjobs.worker.verdict import Outcome

logger = get_logger("jsjobs.worker")
_LOOK_AGAIN = 0.02  # seconds after a lost race
_PLACE_WITHIN = 0.1  # seconds; then another process may have a place sooner


class Earlier(Protocol):
    """A run of the same message which this worker began before."""

    @property
    def ended(self) -> asyncio.Event:
        """Set when it is over."""
        ...

    def lose(self, why: str) -> None:
        """End it, with nothing more sent for its delivery."""
        ...


class Claiming:
    """The claim of one delivery; of a job that snoozes, one after the other."""

    def __init__(self, tools: Tools, delivery: Delivery, job: IncomingJob, place: Place | None = None) -> None:
        self._tools = tools
        self._delivery = delivery
        self._job = job
        self._place = place
        self._waiting: asyncio.Future[Any] | None = None
        self._asleep: asyncio.Future[None] | None = None
        self._is_awake = False
        self._left = 0.0
        self._waited = False
        self.asked: Stop | None = None
        """Why no handler is to begin; None where one may."""

    def stop(self, reason: Stop) -> None:
        """Wait no longer, and give the job back."""
        self.asked = reason
        for waiting in (self._waiting, self._asleep):
            if waiting is not None:
                waiting.cancel()

    def lose(self) -> None:
        """Begin nothing any more; what it waits for is waited for still, but nobody waits for the end of a snooze."""
        if self.asked is None:
            self.asked = Stop.LOST
        if self._asleep is not None:
            self._asleep.cancel()

    def wake(self) -> None:
        """Let no snooze last longer: the job is to be cancelled."""
        self._is_awake = True
        if self._asleep is not None:
            self._asleep.cancel()

    async def claim(self, earlier: Earlier | None, *, after: int = 0, snoozed: float = 0) -> Claim | None:
        """The job with its `processing` entry written, if it is to start; else None, and all is done about it.

        Args:
            earlier: What must end first.
            after: The entry's revision is surely above this; 0 where nothing is known of it.
            snoozed: Seconds for which its handler snoozed a moment ago.
        """
        tools, job, self._left = self._tools, self._job, snoozed
        if earlier is not None:
            # The server gave us a job that we still run: that handler's lease is over, and it must end first.
            earlier.lose("the job was delivered again")
            await self._hold(asyncio.ensure_future(earlier.ended.wait()))
        # A first delivery has no entry as a rule: the write that expects none finds out, one round trip cheaper.
        certain_new = not after and self._delivery.attempt == 1 and job.headers.given_id is None
        found: Found | None = None
        place = self._place
        while self.asked is None and (place is None or place.is_taken or await self._regain(place)):
            if not certain_new:
                found = await tools.state.read(job.job_id)
                if found is not None and found.revision <= after:
                    await asyncio.sleep(_LOOK_AGAIN)  # a replica that lags behind
                    continue
            certain_new = False
            if found is None and job.headers.expires is None:
                decision: Decision = new_start(job, tools.clock(), tools.worker)
            else:
                decision = await self._judge(found, took_over=earlier is not None)
            try:
                if isinstance(decision, Wait):
                    await self._hold(asyncio.ensure_future(asyncio.sleep(decision.seconds)))
                elif isinstance(decision, Sleep):
                    await self._sleep(decision)
                elif isinstance(decision, Start):
                    return await self._start(decision, found)
                else:
                    await self._end(decision)
                    return None
            except Conflict:
                await asyncio.sleep(_LOOK_AGAIN if found else 0)
        tools.settlement.give_back(job.job_id, self._delivery, self._left)
        return None

    async def _judge(self, found: Found | None, *, took_over: bool) -> Decision:
        tools, now = self._tools, self._tools.clock()
        has_no_entry = found is not None and (found.is_deleted or found.problem is not None)
        entry = None if found is None or has_no_entry else found.entry
        server_now = now
        if entry is not None and entry.status is Status.PROCESSING and took_over and entry.worker == tools.worker:
            assert found is not None
            return taken_over(entry, found.revision, now, tools.worker)
        is_leased = entry is not None and (entry.status is Status.PROCESSING or entry.snoozed_until is not None)
        if is_leased or has_no_entry or self._job.headers.expires is not None:
            server_now = await tools.server_now()
        decision = self._decide(found, server_now)
        if isinstance(decision, Bury) or (isinstance(decision, Start) and decision.after_loss):
            # The job may run where a newer delivery of it went, however old its entry is; or where one went that a
            # consumer made anew knows nothing of: its worker's signs of life count for this delivery too.
            return LetGo() if self._delivery.attempt == 1 or not await self._is_newest() else decision
        return decision

    def _decide(self, found: Found | None, server_now: datetime) -> Decision:
        tools = self._tools
        return decide(
            found,
            self._job,
            worker=tools.worker,
            now=tools.clock(),
            server_now=server_now,
            ack_wait=tools.lease_time.ack_wait,
            margin=tools.lease_time.margin,
            sleeps=tools.settlement.sleeps and not self._is_awake,
        )

    async def _start(self, decision: Start, found: Found | None) -> Claim | None:
        """Write that an attempt begins.

        Raises:
            Conflict: If somebody else wrote the entry first.
        """
        tools, job = self._tools, self._job
        self._left = 0
        if found is not None and found.is_deleted:
            logger.warning("job %s: its entry was deleted; nothing is known of earlier attempts", job.job_id)
        text = text_of(decision.entry)
        revision = await tools.state.write(text, expected=decision.expected, delivery=self._delivery)
        if job.headers.expires is not None and (late := await self._expired_meanwhile(found)):
            await self._end(replace(late, expected=revision))
            return None
        claim = Claim(decision.entry, revision, self._delivery, text)
        if (decision.after_snooze or self._waited) and not self._is_awake and await self._is_paused():
            # Looked at after the write: whoever pauses sees one of the two, and the handler does not begin.
            logger.debug("job %s: it has waited here, and its priority is paused meanwhile", job.job_id)
            await tools.settlement.put_off(claim)
            return None
        if tools.telemetry is not None and decision.after_loss:
            tools.telemetry.settled(job.type, job.priority, Outcome.RETRY)
        return claim

    async def _expired_meanwhile(self, found: Found | None) -> Expire | None:
        """What the job has come to in the time that its first start took to be written: there may have been no room."""
        with suppress(JobError):  # who cannot be asked says nothing else than before
            decision = self._decide(found, await self._tools.server_now())
            return decision if isinstance(decision, Expire) else None
        return None

    async def _is_newest(self) -> bool:
        with suppress(JobError):
            return await self._delivery.is_newest()
        return True

    async def _is_paused(self) -> bool:
        with suppress(JobError):  # who cannot be asked has paused nothing
            return await self._delivery.is_paused()
        return False

    async def _hold(self, until: asyncio.Future[Any]) -> None:
        """Keep the delivery alive until another run of the job has ended or its lease is over, or the worker stops."""
        self._waiting = until
        if self._place is not None:
            self._place.leave()
        # A lost delivery waits on too: the newer one's run takes this one's end for that of all before it.
        while not until.done() and self.asked in {None, Stop.LOST}:
            await asyncio.wait({until}, timeout=self._tools.lease_time.ack_wait / 3)
            with suppress(JobError):
                await self._delivery.renew(self._tools.lease_time.ack_wait / 3)
        until.cancel()
        self._waiting = None

    async def _sleep(self, sleep: Sleep) -> None:
        """Keep the delivery alive until the job is due, or is no longer ours to wake, or the worker stops."""
        delivery, ack_wait = self._delivery, self._tools.lease_time.ack_wait
        due = time.monotonic() + sleep.seconds
        if self._place is not None:
            self._place.leave()
        while self.asked is None and not self._is_awake and (left := due - time.monotonic()) > 0:
            self._left = left
            if delivery.age() >= ack_wait / 3 and not await self._is_untouched(sleep.revision):
                return
            self._asleep = asyncio.get_running_loop().create_future()
            until_renewal = ack_wait / 3 - delivery.age()
            await asyncio.wait({self._asleep}, timeout=min(left, max(until_renewal, ack_wait / 24)))
            self._asleep = None

    async def _regain(self, place: Place) -> bool:
        """Keep the delivery alive until there is a place for it again, or give it up; whether it may go on."""
        delivery, time, self._left = self._delivery, self._tools.lease_time, 0
        if self._is_awake:
            return True  # no handler is to begin
        waiting = self._asleep = place.wait()
        await asyncio.wait({waiting}, timeout=_PLACE_WITHIN)
        while not waiting.done():
            self._waited = True
            if delivery.age() >= time.lease:
                delivery.lost = True
                self.lose()
            elif place.make_way(delivery.attempt) or (
                # Whoever pauses waits to know of every job that a worker has whether it begins.
                delivery.age() >= time.ack_wait / 3 and await self._is_paused()
            ):
                self.asked = Stop.RELEASE
                break
            elif delivery.age() >= time.ack_wait / 3:
                with suppress(JobError):  # tried again, until the lease is over
                    await delivery.renew(max(0.1, time.lease - delivery.age()))
            await asyncio.wait({waiting}, timeout=time.ack_wait / 24)
        self._asleep = None
        return self.asked is None

    async def _is_untouched(self, revision: int) -> bool:
        """Renew the lease, once it is sure that nobody else has written the entry: cancelled the job, or taken it."""
        delivery, lease = self._delivery, self._tools.lease_time.lease
        if delivery.age() >= lease:
            delivery.lost = True
            self.lose()
            return False
        with suppress(JobError):  # tried again, until the lease is over
            found = await self._tools.state.read(self._job.job_id)
            if found is None or found.revision > revision:
                return False
            if found.revision == revision:
                await delivery.renew(max(0.1, lease - delivery.age()))
        return True

    async def _end(self, decision: Ended | LetGo | Cancelled | Rebury | Bury | Expire) -> None:
        settlement, delivery = self._tools.settlement, self._delivery
        match decision:
            case Ended(why):
                logger.debug("job %s: not run, %s", self._job.job_id, why)
                delivery.ack()
            case LetGo():
                logger.debug("job %s: not run, another worker may run it for long", self._job.job_id)
            case Cancelled(entry, expected):
                await settlement.let_age(entry, expected, delivery)  # first: nobody meets a message that is gone
                delivery.ack()
            case Rebury(entry):
                await settlement.rebury(entry, delivery)
            case Bury(entry, expected, reason, error, after_loss):
                logger.error("job %s (%s): the job is dead: %s", entry.job_id, entry.type, error)
                await settlement.bury(Claim(entry, expected, delivery), reason, error, failed=after_loss)
            case Expire(entry, expected, error, drop):
                logger.warning("job %s (%s): %s", entry.job_id, entry.type, error)
                await settlement.expire(Claim(entry, expected, delivery), error, drop=drop)
