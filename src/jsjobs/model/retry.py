"""Retry policies, and the exception a handler raises to be called again later. No I/O."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from jsjobs.model.times import checked_seconds

ATTEMPTS_LIMIT = 1000
"""The most attempts that a job may have."""
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""Seconds up to some thirty years, which a date and the server can count."""
Factor = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
LONGEST = 366 * 86_400
"""Seconds: one year."""


class RetryState(BaseModel):
    """The state that the policy keeps between two failures of one job; part of the job's entry."""

    model_config = ConfigDict(frozen=True)

    failures: int = 0
    """Failures in the current streak."""
    backoff: float = 0.0
    """Seconds of delay used in the current streak."""
    due: AwareDatetime | None = None
    """When the job's last retry was due; set where its entry no longer tells this, because it has snoozed since."""


class Retry(BaseModel):
    """A retry policy: the delay after each failure, and when to give up.

    By default the delay begins at 100 ms and doubles, with a jitter of 0.8 to 1.2. There are at most 5 retries and at
    most 30 s of accumulated backoff. A new streak begins when 5 minutes have passed since the last failure's retry was
    due. The job's `max_attempts` may end all of this earlier. A job submitted without one has `max_retries` + 1
    attempts of its handler's own policy: `Retry(max_retries=8)` means nine attempts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    initial: Seconds = 0.1
    """Seconds before the first retry."""
    factor: float = Field(default=2.0, ge=1, le=10, allow_inf_nan=False)
    """The factor by which each delay is multiplied to get the next."""
    max_delay: Seconds | None = None
    """The longest single delay, in seconds; None: no limit."""
    jitter: tuple[Factor, Factor] = (0.8, 1.2)
    """Each delay is multiplied by a random number between these two."""
    max_retries: int = Field(default=5, ge=0, le=ATTEMPTS_LIMIT - 1)
    """The most retries in one streak, 0 to 999: a job has at most 1,000 attempts."""
    max_backoff: Seconds = 30.0
    """The most seconds of delay in one streak: the last delay is shortened to fit, and after it the job is dead."""
    reset_after: Seconds = 300.0
    """Seconds after which a streak is forgotten."""

    @property
    def attempts(self) -> int:
        """Return the number of attempts: the first one and `max_retries` more."""
        return self.max_retries + 1

    def after_failure(
        self, state: RetryState, *, now: datetime, due: datetime | None, rng: random.Random
    ) -> tuple[float, RetryState] | None:
        """Return the seconds before the next attempt and the state to keep; None when the policy gives up.

        Args:
            state: The state kept at the last failure.
            now: When this failure happened.
            due: When the failed attempt was due, if it was a retry. The age of the streak is counted from there, so
                that the delays still grow in a policy whose delays are longer than `reset_after`.
            rng: The source of the jitter.
        """
        # A retry may come before it is due, by another clock for instance: it counts as one that comes in time.
        if due is not None and max(0.0, (now - due).total_seconds()) >= self.reset_after:
            state = RetryState()
        budget = self.max_backoff - state.backoff
        if state.failures >= self.max_retries or budget <= 0:
            return None
        ceiling = self.max_backoff if self.max_delay is None else self.max_delay
        try:
            grown = self.initial * self.factor**state.failures
        except OverflowError:
            grown = ceiling if self.initial else 0.0
        delay = min(min(grown, ceiling) * rng.uniform(*self.jitter), budget, ceiling)
        return delay, RetryState(failures=state.failures + 1, backoff=state.backoff + delay)


class Snooze(Exception):  # noqa: N818 - it is no error, and reads as what the handler says
    """Raised by a handler to be called again later; this attempt does not count.

    The job keeps its place as the first of its shard meanwhile, so the jobs behind it wait too. Where the wait is long
    and the order does not matter, submit a delayed job instead.

    Args:
        delay: Seconds above 0, or a timedelta; a year at most.

    Raises:
        JobError: `Validation`, if it is anything else. If the handler does not catch it, its job is dead.
    """

    def __init__(self, delay: float | timedelta) -> None:
        self.seconds = checked_seconds("a snooze", delay, most=LONGEST)
        super().__init__(self.seconds)

    def __str__(self) -> str:
        return f"come back in {self.seconds:g} s"
