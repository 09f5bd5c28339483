"""When a failed job is tried again: a pure calculation."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

ATTEMPTS_LIMIT = 1000
"""Attempts that a job may have, at most."""
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""Up to some thirty years: what a date and the server can count."""
Factor = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class RetryState(BaseModel):
    """What the policy must remember between two failures of one job; part of the job's entry."""

    model_config = ConfigDict(frozen=True)

    failures: int = 0
    """Failures in the present streak."""
    backoff: float = 0.0
    """Seconds of delay given in the present streak."""
    due: AwareDatetime | None = None
    """When its last retry was due, where the job's entry tells something else by now: it snoozed since."""


class Retry(BaseModel):
    """How long to wait after each failure, and when to give up.

    The default is 100 ms doubling, jittered by a factor of 0.8 to 1.2, at most 5 retries, at most 30 s of accumulated
    backoff; the streak starts anew when 5 minutes passed since the last failure's retry was due. The job's
    `max_attempts` cuts all of it shorter. A job that was submitted without one has `max_retries` + 1 of its handler's
    own policy: `Retry(max_retries=8)` means nine attempts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    initial: Seconds = 0.1
    """Seconds before the first retry."""
    factor: float = Field(default=2.0, ge=1, le=10, allow_inf_nan=False)
    """What each delay is multiplied by for the next."""
    max_delay: Seconds | None = None
    """The longest single delay, in seconds; None: no such bound."""
    jitter: tuple[Factor, Factor] = (0.8, 1.2)
    """Each delay is multiplied by a random number between these two."""
    max_retries: int = Field(default=5, ge=0, le=ATTEMPTS_LIMIT - 1)
    """Retries in one streak, 0 to 999: a job has 1,000 attempts, at most."""
    max_backoff: Seconds = 30.0
    """Seconds of delay in one streak, at most: the last delay is cut to fit, after it the job is dead."""
    reset_after: Seconds = 300.0
    """Seconds after which a streak is forgotten."""

    @property
    def attempts(self) -> int:
        """The first attempt and `max_retries` more."""
        return self.max_retries + 1

    def after_failure(
        self, state: RetryState, *, now: datetime, due: datetime | None, rng: random.Random
    ) -> tuple[float, RetryState] | None:
        """The delay before the next attempt, in seconds, and what to remember; None when the policy gives up.

        Args:
            state: What was remembered at the last failure.
            now: When this failure happened.
            due: When the failed attempt was due, if it was a retry: the streak's age is counted from there, so that
                a policy with delays longer than `reset_after` still grows.
            rng: Where the jitter comes from.
        """
        # A retry that comes before it is due, by another clock say, is no later than one that comes in time.
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
