"""Apply verdicts: the writes that end or return a job, in the one order that survives any crash.

`docs/settlement.md` has the table of every crash point between two of these writes; `tests/worker/test_crash_points.py`
crashes at each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import TooLarge
from jsjobs.jetstream.jobs.blocked_writes import BlockedWrite, to_its_end
from jsjobs.jetstream.jobs.dead_letter_message import send_letter
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.state_store import Conflict, StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.context import current_context
from jsjobs.model.entry_text import EntryText, completed_text
from jsjobs.model.errors import Reason
from jsjobs.model.job import JobStatusResponse
from jsjobs.safe_log import get_logger
from jsjobs.worker.result import (
    Cancelled,
    Complete,
    DeadLetter,
    Lost,
    NotComplete,
    Outcome,
    Release,
    RetryAfter,
    SnoozeFor,
    Verdict,
)

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.worker")


class Claim(NamedTuple):
    """A job that is this worker's while its entry has this revision."""

    entry: JobStatusResponse
    revision: int
    delivery: Delivery
    text: EntryText | None = None
    """The entry as it is stored, if an attempt begins."""


class Settlement:
    """Apply verdicts to claims."""

    sleeps: ClassVar[bool] = True
    """Whether a snoozed job waits until it is due."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        state: StateStore,
        *,
        result_ttl: float,
        lease_time: LeaseTime,
        clock: Callable[[], datetime],
        is_torn_down: Callable[[], bool],
        telemetry: Telemetry | None = None,
    ) -> None:
        """Prepare to settle jobs.

        Args:
            connection: The connection that letters are sent on.
            names: The namespace.
            state: The store that entries are written to.
            result_ttl: Seconds that an ended job's entry is kept.
            lease_time: The time in which a delivery is surely still ours.
            clock: Returns the time now.
            is_torn_down: Returns whether everything in this event loop is being cancelled. Any other cancellation comes
                from something that a handler left behind, and ends no settlement.
            telemetry: The telemetry that counts outcomes; None to count nothing.
        """
        self._connection = connection
        self._names = names
        self._state = state
        self._ttl = result_ttl
        self._time = lease_time
        self._clock = clock
        self._is_torn_down = is_torn_down
        self._telemetry = telemetry

    async def apply(self, claim: Claim, verdict: Verdict) -> Outcome:
        """Settle the job, or do nothing if the claim no longer holds; return the outcome."""
        try:
            if isinstance(verdict, Complete):
                outcome = await self._complete(claim, verdict.result)
            else:
                outcome = await self._apply(claim, verdict)
        except Conflict:
            logger.warning(
                "job %s: another worker has it, the outcome %s of attempt %d is dropped",
                claim.entry.job_id,
                type(verdict).__name__,
                claim.entry.attempts,
            )
            return Outcome.LOST
        if self._telemetry is not None and outcome is not Outcome.DEAD:
            self._telemetry.settled(claim.entry.type, claim.entry.priority, outcome)
        return outcome

    async def _apply(self, claim: Claim, verdict: NotComplete) -> Outcome:
        entry, now = claim.entry, self._clock()
        match verdict:
            case RetryAfter(delay, error, retry):
                due = now + timedelta(seconds=delay)
                queued = entry.retried(now, error, due=due, retry=retry, wake=claim.delivery.wake)
                await self._state.write(queued, expected=claim.revision, delivery=claim.delivery)
                self.give_back(entry.job_id, claim.delivery, delay)
                return Outcome.RETRY
            case SnoozeFor(delay):
                # An ordered job's delivery is kept: a new one would count against `max_deliver`.
                due = now + timedelta(seconds=delay)
                asleep = entry.snoozed(now, due, claim.delivery.wake)
                await self._state.write(asleep, expected=claim.revision, delivery=claim.delivery)
                if claim.delivery.is_parallel:
                    self.give_back(entry.job_id, claim.delivery, delay if self.sleeps else 0)
                return Outcome.SNOOZED
            case DeadLetter(reason, error):
                await self.dead_letter(claim, reason, error)
                return Outcome.DEAD
            case Cancelled():
                await self._state.write(
                    entry.cancelled(now), expected=claim.revision, ttl=self._ttl, delivery=claim.delivery
                )
                claim.delivery.term("cancelled")
                return Outcome.CANCELLED
            case Release():
                await self._state.write(entry.released(now), expected=claim.revision, delivery=claim.delivery)
                self.give_back(entry.job_id, claim.delivery)
                return Outcome.RELEASED
            case Lost(why):
                logger.warning("job %s: %s; attempt %d is dropped", entry.job_id, why, entry.attempts)
                return Outcome.LOST

    async def _complete(self, claim: Claim, result: bytes | None) -> Outcome:
        entry, now = claim.entry, self._clock()
        text = completed_text(entry, claim.text, now, result)
        try:
            await self._state.write(text, expected=claim.revision, ttl=self._ttl, delivery=claim.delivery)
        except TooLarge as error:
            if not await self._completed_without_failures(claim, now, result):
                why = f"the result of {len(result or b'')} bytes cannot be kept: {error.message}"
                told = "job %s (%s): attempt %d of %d failed, the job is dead: %s"
                logger.error(told, entry.job_id, entry.type, entry.attempts, entry.max_attempts, why)  # noqa: TRY400 - it says all
                await self.dead_letter(claim, Reason.VALIDATION, why)
                return Outcome.DEAD
        claim.delivery.ack()
        logger.debug("job %s (%s): complete", entry.job_id, entry.type)
        return Outcome.COMPLETE

    async def _completed_without_failures(self, claim: Claim, now: datetime, result: bytes | None) -> bool:
        """Store the result without the earlier failures, for which it must not be lost; return whether that fits."""
        text = completed_text(claim.entry.without_failures(), None, now, result)
        try:
            await self._state.write(text, expected=claim.revision, ttl=self._ttl, delivery=claim.delivery)
        except TooLarge:
            return False
        return True

    async def dead_letter(self, claim: Claim, reason: Reason, error: str, *, failed: bool = True) -> None:
        """End a dead job: its entry, its letter, its message, in this order.

        Args:
            claim: The job.
            reason: The reason why it is dead.
            error: The same, in words.
            failed: Whether an attempt ends with it.

        Raises:
            Conflict: If the job is no longer ours: a cancel that won leaves no letter.
        """
        dead = claim.entry.failed(self._clock(), reason, error)
        # No time to live yet: the router sets it, once the letter is in Postgres.
        await self._state.write(dead, expected=claim.revision, delivery=claim.delivery)
        if self._telemetry is not None:
            # Counted here, since this write happens once, whatever becomes of the letter.
            if failed:
                self._telemetry.settled(dead.type, dead.priority, Outcome.DEAD)
            else:
                self._telemetry.count("jobs.dead_lettered", dead.type, "process", dead.priority)
        await self.resend_dead_letter(dead, claim.delivery)

    async def expire(self, claim: Claim, error: str, *, drop: bool) -> None:
        """End a job that was not started in time: like any dead job, or, if dropped, without a letter.

        Raises:
            Conflict: If the job is no longer ours.
        """
        dead = claim.entry.failed(self._clock(), Reason.TIMEOUT, error)
        # A time to live from the start says that no letter will come.
        ttl = self._ttl if drop else None
        await self._state.write(dead, expected=claim.revision, ttl=ttl, delivery=claim.delivery)
        if self._telemetry is not None:
            self._telemetry.count("jobs.dead_lettered", dead.type, "expire", dead.priority)
        if drop:
            claim.delivery.term("expired")
        else:
            await self.resend_dead_letter(dead, claim.delivery)

    async def put_off(self, claim: Claim) -> None:
        """Give back a job whose snooze is over but whose shard is paused; it is redelivered once that is resumed.

        Raises:
            Conflict: If the job is no longer ours.
        """
        now = self._clock()
        await self._state.write(claim.entry.snoozed(now, now), expected=claim.revision, delivery=claim.delivery)
        self.give_back(claim.entry.job_id, claim.delivery)

    async def resend_dead_letter(self, dead: JobStatusResponse, delivery: Delivery) -> None:
        """Send the letter of a job that is dead already, then end its message."""
        trace = current_context().trace
        letter = dead, delivery.header, delivery.data, trace.traceparent

        async def send(blocked: BlockedWrite) -> None:
            await send_letter(self._connection, self._names, *letter, blocked=blocked)

        await to_its_end(send, self._state.blocked, delivery, self._is_torn_down)
        delivery.term(str(dead.error_reason))

    async def set_expiry(self, cancelled: JobStatusResponse, revision: int, delivery: Delivery) -> None:
        """Write the same entry with a time to live, for a job cancelled while it waited; its message is about to go."""
        with suppress(Conflict):  # it has its time to live already
            await self._state.write(cancelled, expected=revision, ttl=self._ttl, delivery=delivery)
            if self._telemetry is not None:
                # Counted here, or by the worker that gets the notice: this write, too, happens once.
                self._telemetry.count("jobs.cancellations", cancelled.type, "cancel", cancelled.priority)

    def give_back(self, job_id: str, delivery: Delivery, delay: float = 0) -> None:
        """Ask for another delivery, if this one is surely still ours."""
        if delivery.age() < self._time.lease:
            delivery.nak(delay)
        else:
            # The job may belong to another delivery by now: `ack_wait` brings it back without us.
            logger.info("job %s: its delivery is too old to be returned, it comes back by itself", job_id)
