"""The part of a service that decides over jobs: cancels waiting and running ones, brings dead ones back."""

from __future__ import annotations

from jsjobs.cancelling import cancel_job
from jsjobs.dead_letters.replay import replay_letter
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Priority
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.service.connections import Connections


class Controls(Connections):
    """Cancels and replays."""

    async def cancel(self, job_id: str, timeout: float = 30) -> JobStatusResponse:
        """Cancel a job: one that waits is never run, one that runs is interrupted. Returns when that is decided.

        An async handler gets `CancelledError`, and its `finally` runs; a plain one finds `ctx.cancelled` set; one in a
        process is ended with it.

        Args:
            job_id: The job.
            timeout: Seconds to wait for a running one to stop.

        Returns:
            The job's status, `cancelled`.

        Raises:
            JobError: `NotFound`; `AlreadyCancelled`; `AlreadyEnded` (its reason is `Validation`), if the job is
                complete or dead; `Timeout`, if it is still stopping; `RunnerUnavailable`, if no worker has it, or the
                server cannot be reached. After the last two the job may yet be cancelled: ask again, or its status.
        """
        return await cancel_job(self._connected(), self.config, job_id, timeout=timeout, telemetry=self._telemetry)

    def letters(self) -> DeadLetters:
        """The dead-letter table, where a database is set."""
        return DeadLetters(self.database(), self.config.namespace)

    async def replay(self, dlq_id: str, *, priority: Priority | str | None = None, force: bool = False) -> JobId:
        """Put a dead job back into its queue, once, however often and by however many this is called.

        Args:
            dlq_id: The letter's id, the begin of it, or the dead job's id.
            priority: Another priority than its own.
            force: Replay it though it was replayed or discarded before.

        Returns:
            The new job's id, `replay-…`.

        Raises:
            JobError: `NotFound`; `Validation`, if it was replayed or discarded before; `RunnerUnavailable`.
        """
        if priority is not None and priority not in set(Priority):
            raise JobError.from_validation(f"the priority must be one of {', '.join(Priority)}, not {priority!r}")
        other = None if priority is None else Priority(priority)
        return await replay_letter(
            self._connected(),
            self.config,
            self.letters(),
            dlq_id,
            priority=other,
            force=force,
            telemetry=self._telemetry,
        )
