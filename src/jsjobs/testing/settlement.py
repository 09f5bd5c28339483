"""How a test's worker settles jobs: as in production, but nobody waits for a retry, and errors are kept."""

from __future__ import annotations

from typing import Any

from jsjobs.jetstream.delivery import Delivery
from jsjobs.worker.settle import Claim, Settlement
from jsjobs.worker.verdict import DeadLetter, Outcome, Verdict


class PromptSettlement(Settlement):
    """Writes what production writes, then asks for the next attempt at once."""

    sleeps = False

    def __init__(self, *tools: Any, causes: dict[str, BaseException], **more_tools: Any) -> None:
        """Settle, and keep what handlers raised.

        Args:
            *tools: Of a `Settlement`.
            causes: Gets the exception that each dead job ended in, by the job's id.
            **more_tools: Of a `Settlement`.
        """
        super().__init__(*tools, **more_tools)
        self._causes = causes

    async def apply(self, claim: Claim, verdict: Verdict) -> Outcome:
        """See `Settlement`."""
        if isinstance(verdict, DeadLetter) and verdict.cause is not None:
            self._causes[claim.entry.job_id] = verdict.cause
        return await super().apply(claim, verdict)

    def give_back(self, job_id: str, delivery: Delivery, delay: float = 0) -> None:  # noqa: ARG002 - this is the point
        """Ask for another delivery without the delay, which only the job's entry tells."""
        super().give_back(job_id, delivery)
