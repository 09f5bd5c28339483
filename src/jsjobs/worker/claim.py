"""Claim a delivered job for this worker: read its entry, wait for others, read again, until it is ours or has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.state_store import Conflict, Found, StateStore
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status
from jsjobs.safe_log import get_logger
from jsjobs.worker.claim_decision import (
    Cancelled,
    Dead,
    Decision,
    Ended,
    Expire,
    Ignore,
    ResendDeadLetter,
    Sleep,
    Start,
    Wait,
    decide,
    taken_over,
)
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.result import Outcome
from jsjobs.worker.run_state import State, Stop
from jsjobs.worker.settlement import Claim, Settlement
from jsjobs.worker.slots import Slot

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.worker")
_LOOK_AGAIN = 0.02  # seconds after a lost race
_SLOT_WITHIN = 0.1  # seconds; then another process may have a slot sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Claim the jobs of one worker's deliveries."""

    worker: str
    """The worker's name, for entries."""
    state: StateStore
    settlement: Settlement
    lease_time: LeaseTime
    clock: Callable[[], datetime]
    server_now: Callable[[], Awaitable[datetime]]
    """Returns the time by the server's clock."""
    telemetry: Telemetry | None = None

    async def claim(self, run: JobRun) -> Claim | None:
        """Claim a run's job: write its `processing` entry if it is to start, else settle its delivery.

        Returns:
            The claim; None if the job is not to start, and nothing is left to do.
        """
        job, delivery, slot, after = run.job, run.delivery, run.slot, run.revision
        took_over = run.earlier is not None and await self._outlive(run, run.earlier)
        # A first delivery usually has no entry. A write that expects none finds out, and saves one round trip.
        certain_new = not after and delivery.attempt == 1 and job.headers.given_id is None
        found: Found | None = None
        while run.asked is None and (slot is None or slot.is_taken or await self._regain(run, slot)):
            if not certain_new:
                found = await self.state.read(job.job_id)
                if found is not None and found.revision <= after:
                    await asyncio.sleep(_LOOK_AGAIN)  # a replica that lags behind
                    continue
            certain_new = False
            if found is None and job.headers.expires is None:
                decision: Decision = Start(job.begun(self.clock(), self.worker), 0)
            else:
                decision = await self._judge(run, found, took_over=took_over)
            try:
                if isinstance(decision, Wait):
                    await self._hold(run, asyncio.ensure_future(asyncio.sleep(decision.seconds)))
                elif isinstance(decision, Sleep):
                    await self._sleep(run, decision)
                elif isinstance(decision, Start):
                    return await self._start(run, decision, found)
                else:
                    await self._end(run, decision)
                    return None
            except Conflict:
                await asyncio.sleep(_LOOK_AGAIN if found else 0)
        self.settlement.give_back(job.job_id, delivery, run.left)
        return None

    async def _outlive(self, run: JobRun, earlier: JobRun) -> bool:
        """End the run that has the job here, since the server delivered it again: its lease is over. Return True."""
        run.earlier = None
        earlier.lose("the job was delivered again")
        await self._hold(run, asyncio.ensure_future(earlier.ended.wait()))
        return True

    async def _judge(self, run: JobRun, found: Found | None, *, took_over: bool) -> Decision:
        now = server_now = self.clock()
        has_no_entry = found is not None and (found.is_deleted or found.problem is not None)
        entry = None if found is None or has_no_entry else found.entry
        if entry is not None and entry.status is Status.PROCESSING and took_over and entry.worker == self.worker:
            assert found is not None
            return taken_over(entry, found.revision, now, self.worker)
        is_leased = entry is not None and (entry.status is Status.PROCESSING or entry.snoozed_until is not None)
        if is_leased or has_no_entry or run.job.headers.expires is not None:
            server_now = await self.server_now()
        decision = self._decide(run, found, server_now)
        if isinstance(decision, Dead) or (isinstance(decision, Start) and decision.after_loss):
            # The job may run where a newer delivery went, however old its entry is. Or it may run where an earlier
            # delivery went that a recreated consumer does not know of: that worker's heartbeats count for this one too.
            return Ignore() if run.delivery.attempt == 1 or not await _is_newest(run.delivery) else decision
        return decision

    def _decide(self, run: JobRun, found: Found | None, server_now: datetime) -> Decision:
        return decide(
            found,
            run.job,
            worker=self.worker,
            now=self.clock(),
            server_now=server_now,
            ack_wait=self.lease_time.ack_wait,
            margin=self.lease_time.margin,
            sleeps=self.settlement.sleeps and not run.is_cancelled,
        )

    async def _start(self, run: JobRun, decision: Start, found: Found | None) -> Claim | None:
        """Write that an attempt begins.

        Raises:
            Conflict: If somebody else wrote the entry first.
        """
        job, run.left = run.job, 0.0
        if found is not None and found.is_deleted:
            logger.warning("job %s: its entry was deleted; nothing is known of earlier attempts", job.job_id)
        text = text_of(decision.entry)
        revision = await self.state.write(text, expected=decision.expected, delivery=run.delivery)
        if job.headers.expires is not None and (late := await self._expired_meanwhile(run, found)):
            await self._end(run, replace(late, expected=revision))
            return None
        claim = Claim(decision.entry, revision, run.delivery, text)
        if (decision.after_snooze or run.has_waited) and not run.is_cancelled and await _is_paused(run.delivery):
            # Checked after the write: either this sees the pause, or the pausing side sees the entry.
            logger.debug("job %s: it has waited here, and its priority is paused meanwhile", job.job_id)
            await self.settlement.put_off(claim)
            return None
        if self.telemetry is not None and decision.after_loss:
            self.telemetry.settled(job.type, job.priority, Outcome.RETRY)
        run.revision, run.has_waited = revision, False
        run.to(State.STARTING)
        return claim

    async def _expired_meanwhile(self, run: JobRun, found: Found | None) -> Expire | None:
        """Return the job's expiry if it passed while its first start was written: there may have been no room."""
        with suppress(JobError):  # a server that cannot be asked changes nothing
            decision = self._decide(run, found, await self.server_now())
            return decision if isinstance(decision, Expire) else None
        return None

    async def _hold(self, run: JobRun, until: asyncio.Future[Any]) -> None:
        """Keep the delivery alive until another run of the job has ended or its lease is over, or the worker stops."""
        third = self.lease_time.ack_wait / 3
        run.to(State.HELD, until)
        if run.slot is not None:
            run.slot.leave()
        # A lost delivery goes on waiting too: the newer run takes the end of this one for the end of all before it.
        while not until.done() and run.asked in {None, Stop.LOST}:
            await asyncio.wait({until}, timeout=third)
            with suppress(JobError):
                await run.delivery.renew(third)
        until.cancel()
        run.to(State.CLAIMING)

    async def _sleep(self, run: JobRun, sleep: Sleep) -> None:
        """Keep the delivery alive until the job is due, or is no longer ours to start, or the worker stops."""
        delivery, ack_wait = run.delivery, self.lease_time.ack_wait
        due = time.monotonic() + sleep.seconds
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.to(State.SNOOZED, until)
        if run.slot is not None:
            run.slot.leave()
        while run.asked is None and not run.is_cancelled and (left := due - time.monotonic()) > 0:
            run.left = left
            if delivery.age() >= ack_wait / 3 and not await self._is_untouched(run, sleep.revision):
                break
            until_renewal = ack_wait / 3 - delivery.age()
            await asyncio.wait({until}, timeout=min(left, max(until_renewal, ack_wait / 24)))
        run.to(State.CLAIMING)

    async def _regain(self, run: JobRun, slot: Slot) -> bool:
        """Keep the delivery alive until it gets a slot again, or give it up; return whether it may go on."""
        delivery, time, run.left = run.delivery, self.lease_time, 0.0
        if run.is_cancelled:
            return True  # no handler is to begin
        waiting = slot.wait()
        run.to(State.WAITING, waiting)
        await asyncio.wait({waiting}, timeout=_SLOT_WITHIN)
        while not waiting.done():
            run.has_waited = True
            if delivery.age() >= time.lease:
                run.lose("it waited for a slot for too long")
            elif slot.make_way(delivery.attempt) or (
                # A pause waits until it is known, for every job that a worker has, whether that job begins.
                delivery.age() >= time.ack_wait / 3 and await _is_paused(delivery)
            ):
                run.asked = Stop.RELEASE
                break
            elif delivery.age() >= time.ack_wait / 3:
                with suppress(JobError):  # tried again, until the lease is over
                    await delivery.renew(max(0.1, time.lease - delivery.age()))
            await asyncio.wait({waiting}, timeout=time.ack_wait / 24)
        run.to(State.CLAIMING)
        return run.asked is None

    async def _is_untouched(self, run: JobRun, revision: int) -> bool:
        """Renew the lease unless somebody else has written the entry, as by cancelling or taking the job.

        Return False if somebody has, or the lease is over.
        """
        delivery, lease = run.delivery, self.lease_time.lease
        if delivery.age() >= lease:
            run.lose("the lease was not confirmed in time")
            return False
        with suppress(JobError):  # tried again, until the lease is over
            found = await self.state.read(run.job_id)
            if found is None or found.revision > revision:
                return False
            if found.revision == revision:
                await delivery.renew(max(0.1, lease - delivery.age()))
        return True

    async def _end(self, run: JobRun, decision: Ended | Ignore | Cancelled | ResendDeadLetter | Dead | Expire) -> None:
        settlement, delivery = self.settlement, run.delivery
        match decision:
            case Ended(why):
                logger.debug("job %s: not run, %s", run.job_id, why)
                delivery.ack()
            case Ignore():
                logger.debug("job %s: not run, another worker may run it for long", run.job_id)
            case Cancelled(entry, expected):
                await settlement.set_expiry(entry, expected, delivery)  # first: nobody meets a message that is gone
                delivery.ack()
            case ResendDeadLetter(entry):
                await settlement.resend_dead_letter(entry, delivery)
            case Dead(entry, expected, reason, error, after_loss):
                logger.error("job %s (%s): the job is dead: %s", entry.job_id, entry.type, error)
                await settlement.dead_letter(Claim(entry, expected, delivery), reason, error, failed=after_loss)
            case Expire(entry, expected, error, drop):
                logger.warning("job %s (%s): %s", entry.job_id, entry.type, error)
                await settlement.expire(Claim(entry, expected, delivery), error, drop=drop)


async def _is_newest(delivery: Delivery) -> bool:
    with suppress(JobError):  # if the server cannot be asked, it is taken for the newest
        return await delivery.is_newest()
    return True


async def _is_paused(delivery: Delivery) -> bool:
    with suppress(JobError):  # if the server cannot be asked, no pause is assumed
        return await delivery.is_paused()
    return False
