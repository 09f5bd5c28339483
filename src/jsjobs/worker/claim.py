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
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status
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
    left_to_wait,
    taken_over,
)
from jsjobs.worker.intake.slots import Slot
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.result import Outcome
from jsjobs.worker.run_state import State, Stop
from jsjobs.worker.settlement import Claim, Settlement

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.worker")
_LOOK_AGAIN = 0.02  # seconds after a lost race
_SLOT_WITHIN = 0.1  # seconds; then another process may have a slot sooner
_AFTER_LEASE = 0.05  # seconds after another worker's lease, so that it is surely over
_EARLY = 0.5  # seconds by which a job that waits for its next attempt may come back early
MAX_BOUNCES = 1_000
"""Deliveries of a job of the parallel lane, since its entry was last written, after which it is dead."""


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
        while run.asked is None and (slot.is_taken or await self._regain(run, slot)):
            if not certain_new:
                found = await self.state.read(job.job_id)
                if found is not None and found.revision <= after:
                    await asyncio.sleep(_LOOK_AGAIN)  # a replica that lags behind
                    continue
            certain_new = False
            if found is None and job.headers.expires is None and delivery.attempt <= MAX_BOUNCES:
                decision: Decision = Start(job.begun(self.clock(), self.worker), 0)
            else:
                decision = await self._judge(run, found, took_over=took_over)
            try:
                if run.delivery.is_parallel and isinstance(decision, Wait | Sleep):
                    # It holds up nobody while it is away.
                    await self._send_away(run, decision, found)
                    return None
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

    async def note_return(self, run: JobRun) -> None:
        """Write into a waiting job's entry how often it was delivered: it becomes dead if nobody ever writes it.

        Raises:
            JobError: If it cannot be written.
        """
        found = await self.state.read(run.job_id)
        entry = run.job.entry() if found is None else found.entry
        if entry is not None and entry.status is Status.QUEUED and run.job.own(entry) is entry:
            noted = _written_again(entry, found, deliveries=run.delivery.attempt)
            with suppress(Conflict):  # somebody has written it, then
                await self.state.write(noted, expected=found.revision if found else 0, delivery=run.delivery)

    async def _send_away(self, run: JobRun, decision: Wait | Sleep, found: Found | None) -> None:
        """Let a job of the parallel lane come back later.

        Raises:
            Conflict: If somebody else wrote the entry first.
        """
        delivery = run.delivery
        if isinstance(decision, Sleep):
            if found is not None and found.entry is not None and found.entry.wake != delivery.wake:
                # Only this delivery can be woken now; and what was read may be old: somebody may have woken the job.
                slept = _written_again(found.entry, found, wake=delivery.wake, deliveries=delivery.attempt)
                await self.state.write(slept, expected=decision.revision, delivery=delivery)
            self.settlement.give_back(run.job_id, delivery, decision.seconds)
        elif decision.seconds <= self.lease_time.margin:
            # The other worker's lease is over: nothing that it sends now would be undone by this.
            self.settlement.give_back(run.job_id, delivery, decision.seconds + _AFTER_LEASE)
        else:
            logger.debug("job %s: another worker may run it; it comes back after ack_wait", run.job_id)

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
        if run.delivery.is_parallel:
            return await self._judge_parallel(run, found, entry, decision)
        if isinstance(decision, Dead) or (isinstance(decision, Start) and decision.after_loss):
            # The job may run where a newer delivery went, however old its entry is. Or it may run where an earlier
            # delivery went that a recreated consumer does not know of: that worker's heartbeats count for this one too.
            return Ignore() if run.delivery.attempt == 1 or not await _is_newest(run.delivery) else decision
        return decision

    async def _judge_parallel(
        self, run: JobRun, found: Found | None, entry: JobStatusResponse | None, decision: Decision
    ) -> Decision:
        """Correct a decision where the parallel lane differs: many jobs of a partition are under way at once."""
        delivery = run.delivery
        written_at = 0 if entry is None else entry.deliveries or 1
        if isinstance(decision, Start) and delivery.attempt - written_at > MAX_BOUNCES:
            error = f"it was given back {MAX_BOUNCES:,} times, and no worker began it"
            return Dead(entry or run.job.entry(), decision.expected, Reason.RUNNER_UNAVAILABLE, error)
        if (isinstance(decision, Start) and decision.after_loss) or isinstance(decision, Dead):
            # The first delivery of a consumer that was created since: if that worker lives, its renewals count for this
            # one from now on. A delivery from before the lost attempt waited in a buffer: that worker may live too.
            is_older = entry is not None and delivery.attempt <= written_at
            if is_older and (delivery.attempt == 1 or not await _is_of_new_consumer(delivery, entry)):
                return Ignore()
        is_queued = found is not None and entry is not None and entry.status is Status.QUEUED
        if self._sleeps(run) and isinstance(decision, Start) and is_queued:
            assert found is not None
            assert entry is not None
            # A new consumer knows of no delay.
            left = left_to_wait(entry, found.stored_at, await self.server_now()) if entry.next_attempt_at else 0
            return Sleep(left, decision.expected) if left > _EARLY else decision
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
            sleeps=self._sleeps(run),
        )

    def _sleeps(self, run: JobRun) -> bool:
        return self.settlement.sleeps and not run.is_cancelled

    async def _start(self, run: JobRun, decision: Start, found: Found | None) -> Claim | None:
        """Write that an attempt begins.

        Raises:
            Conflict: If somebody else wrote the entry first.
        """
        job, run.left = run.job, 0.0
        if found is not None and found.is_deleted:
            logger.warning("job %s: its entry was deleted; nothing is known of earlier attempts", job.job_id)
        entry, delivery = decision.entry, run.delivery
        if delivery.attempt > 1 and delivery.is_parallel:
            entry = entry.model_copy(update={"deliveries": delivery.attempt})
        text = text_of(entry)
        revision = await self.state.write(text, expected=decision.expected, delivery=delivery)
        if job.headers.expires is not None and (late := await self._expired_meanwhile(run, found)):
            await self._end(run, replace(late, expected=revision))
            return None
        claim = Claim(entry, revision, delivery, text)
        if (
            (decision.after_snooze or delivery.was_kept)
            and not run.is_cancelled
            and not run.delivery.is_parallel
            and await _is_paused(run.delivery)
        ):
            # Checked after the write: either this sees the pause, or the pausing side sees the entry.
            logger.debug("job %s: it waited here, and its priority is paused meanwhile", job.job_id)
            await self.settlement.put_off(claim)
            return None
        if self.telemetry is not None and decision.after_loss:
            self.telemetry.settled(job.type, job.priority, Outcome.RETRY)
        run.revision = revision
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
        run.slot.leave()
        while run.asked is None and not run.is_cancelled and (left := due - time.monotonic()) > 0:
            run.left = left
            if delivery.age() >= ack_wait / 3 and not await self._is_untouched(run, sleep.revision):
                break
            until_renewal = ack_wait / 3 - delivery.age()
            await asyncio.wait({until}, timeout=min(left, max(until_renewal, ack_wait / 24)))
        run.to(State.CLAIMING)

    async def _regain(self, run: JobRun, slot: Slot) -> bool:
        """Wait a moment for a slot; return whether it has one."""
        run.left = 0.0
        if run.is_cancelled:
            return True  # no handler is to begin
        waiting = slot.wait()
        run.to(State.WAITING, waiting)
        await asyncio.wait({waiting}, timeout=_SLOT_WITHIN)
        if not (slot.is_taken or run.is_cancelled):
            run.asked = run.asked or Stop.RELEASE  # another worker may have a slot, or room
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


def _written_again(entry: JobStatusResponse, found: Found | None, **changes: object) -> JobStatusResponse:
    """Return the entry of a waiting job with other notes; its delay goes on."""
    since = None if found is None else entry.waits_since or found.stored_at
    return entry.model_copy(update={**changes, "waits_since": since})


async def _is_newest(delivery: Delivery) -> bool:
    with suppress(JobError):  # if the server cannot be asked, it is taken for the newest
        return await delivery.is_newest()
    return True


async def _is_of_new_consumer(delivery: Delivery, entry: JobStatusResponse | None) -> bool:
    """Return whether its consumer was created since the entry's last attempt began, so that it counts anew."""
    began = entry.history[-1].timestamp if entry is not None and entry.history else None
    with suppress(JobError):  # if the server cannot be asked, the job comes back
        return began is not None and await delivery.consumer_created() > began
    return False


async def _is_paused(delivery: Delivery) -> bool:
    with suppress(JobError):  # if the server cannot be asked, no pause is assumed
        return await delivery.is_paused()
    return False
