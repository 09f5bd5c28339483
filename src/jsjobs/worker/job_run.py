"""A delivery that a worker has in hand: its job, its slot, where it stands, and what was asked of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.worker.run_state import ENDED_BY, HAS_BEGUN, MOVES, State, Stop

if TYPE_CHECKING:
    from jsjobs.handlers.registry import Registration
    from jsjobs.worker.executor import Handling
    from jsjobs.worker.intake.slots import Slot

RunKey = tuple[str, int]
"""Stream and sequence: the message that a run belongs to."""


class JobRun:
    """One delivery, from its arrival to its settlement: a state machine, moved by the worker and asked by others.

    `jsjobs.worker.run_state` has its states, its moves, and which request ends which state.
    """

    def __init__(
        self,
        delivery: Delivery,
        job: IncomingJob,
        registration: Registration | None,
        slot: Slot,
        earlier: JobRun | None,
    ) -> None:
        """Take a delivery in hand.

        Args:
            delivery: The delivery.
            job: Its job, with its handler's terms.
            registration: The job's handler; None if this worker has none.
            slot: Its slot.
            earlier: The run of the same message that this worker has in hand; it must end first.
        """
        self.delivery = delivery
        self.job = job
        self.registration = registration
        self.slot = slot
        self.earlier = earlier
        self.job_id = job.job_id
        # The key is the message, not the job's id: another copy of a given id is no redelivery of this one.
        self.key: RunKey = (job.carrier.stream, delivery.sequence)
        self.context = job.context()
        self.state = State.CLAIMING
        self.asked: Stop | None = None
        """The reason why no handler is to begin; None if one may."""
        self.is_cancelled = False
        self.handling: Handling | None = None
        """The part of the run that can be interrupted, while its handler runs; None otherwise."""
        self.revision = 0
        """The entry's revision as this run wrote it last; 0 if it has not."""
        self.renewing = False
        self.left = 0.0
        """Seconds that are left of its snooze."""
        self._until: asyncio.Future[Any] | None = None
        self._ended: asyncio.Event | None = None

    # -- moves, by the worker

    def to(self, state: State, until: asyncio.Future[Any] | None = None) -> None:
        """Move to another state.

        Args:
            state: The next state.
            until: The future that this state waits for; a request that ends the state cancels it.

        Raises:
            AssertionError: If that state may not follow: a fault of the worker's.
        """
        if state not in MOVES[self.state]:
            raise AssertionError(f"job {self.job_id}: from {self.state} to {state}")
        self.state = state
        self._until = until

    def end(self) -> None:
        """End the run, whatever its state: nothing is left to do here."""
        self.state, self._until = State.OVER, None
        if self._ended is not None:
            self._ended.set()

    @property
    def ended(self) -> asyncio.Event:
        """Return the event that is set when the run is over; it is created on demand, since few runs are waited for."""
        if self._ended is None:
            self._ended = asyncio.Event()
            if self.state is State.OVER:
                self._ended.set()
        return self._ended

    # -- requests, by others

    def release(self) -> None:
        """End the run early: a running handler is interrupted, a job that has not started is given back."""
        self.asked = Stop.RELEASE
        self._reach(Stop.RELEASE)

    def wind_down(self) -> None:
        """Start no further attempt: a job that has not started is given back, a running handler goes on."""
        self.asked = Stop.RELEASE
        if self.state is not State.RUNNING:
            self._reach(Stop.RELEASE)

    def lose(self, why: str) -> None:
        """End the handler, or do not start it, and send nothing more for this delivery."""
        self.delivery.lost = True
        if self.handling is None:
            self.asked = self.asked or Stop.LOST
        self._reach(Stop.LOST, why)

    def cancel(self) -> bool:
        """End the job: interrupt a running handler, or never start it; return whether this is the first request."""
        is_news, self.is_cancelled = not self.is_cancelled, True
        self._reach(Stop.CANCEL)
        return is_news

    def _reach(self, reason: Stop, why: str = "") -> None:
        if reason not in ENDED_BY.get(self.state, ()):
            return
        if self.handling is not None:
            self.handling.stop(reason, why)
        elif self._until is not None:
            self._until.cancel()

    def asked_early(self) -> Stop | None:
        """Return why the handler is not to begin; None if it may. It costs no attempt, since it has not begun."""
        if self.is_cancelled:
            return Stop.CANCEL
        return Stop.RELEASE if self.asked is not None or self.delivery.lost else None

    # -- leases

    def goes_on_with(self, newer: Delivery, lease: float) -> bool:
        """Answer through a newer delivery of the message from now on, if this run's attempt may go on.

        A restarted server delivers early (docs/server-quirks.md#an-early-delivery), and a new consumer knows of no
        earlier delivery. Neither says anything about the attempt that runs here.

        Args:
            newer: The newer delivery.
            lease: Seconds for which a delivery is surely this worker's.

        Returns:
            Whether it goes on; False if this run must end, or has begun no attempt.
        """
        handling, mine = self.handling, self.delivery
        if self.state not in HAS_BEGUN or mine.lost or (handling is not None and handling.asked is Stop.LOST):
            return False
        # A recreated consumer counts from 1 again. The lease is that of the last renewal; the next one, which reads the
        # entry first, tells whether the job is still ours.
        if newer.attempt > 1 and mine.age() >= lease:
            return False
        mine.answer_through(newer)
        return True

    def needs_renewal(self) -> bool:
        """Return whether a handler runs, long or short: a short one past its limit may still need time to end."""
        return self.handling is not None and self.handling.asked is not Stop.LOST
