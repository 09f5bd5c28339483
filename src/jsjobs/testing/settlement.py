"""Settle jobs in a test: as in production, except that retries do not wait and errors are kept."""

from __future__ import annotations

from typing import Any

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.worker.result import DeadLetter, Outcome, Verdict
from jsjobs.worker.settlement import Claim, Settlement


class PromptSettlement(Settlement):
    """Write what production writes, then ask for the next attempt at once."""

    sleeps = False

    def __init__(self, *tools: Any, causes: dict[str, BaseException], **more_tools: Any) -> None:
        """Keep the exceptions that handlers raise, beside what a `Settlement` keeps.

        Args:
            *tools: Arguments of `Settlement`.
            causes: Receives the exception that each dead job ended in, by the job's id.
            **more_tools: Arguments of `Settlement`.
        """
        super().__init__(*tools, **more_tools)
        self._causes = causes

    async def apply(self, claim: Claim, verdict: Verdict) -> Outcome:
        """Apply a verdict as `Settlement` does, and keep the exception that a job died of."""
        if isinstance(verdict, DeadLetter) and verdict.cause is not None:
            self._causes[claim.entry.job_id] = verdict.cause
        return await super().apply(claim, verdict)

    def give_back(self, job_id: str, delivery: Delivery, delay: float = 0) -> None:  # noqa: ARG002 - this is the point
        """Ask for another delivery without the delay, which is recorded only in the job's entry."""
        super().give_back(job_id, delivery)
