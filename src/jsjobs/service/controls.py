"""The part of a service that decides over jobs: cancels them, holds priorities back, brings dead jobs back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, Priority, PriorityName
from jsjobs.service.connections import Connections

if TYPE_CHECKING:
    from jsjobs.jetstream.pausing import Paused
    from jsjobs.postgres.dead_letters import DeadLetters


class Controls(Connections):
    """Cancels, pauses and replays."""

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
        from jsjobs.cancelling import cancel_job

        return await cancel_job(self.connection, self.config, job_id, timeout=timeout)

    async def reschedule(
        self, job_id: str, *, delay: float | timedelta | None = None, at: datetime | None = None
    ) -> JobStatusResponse:
        """Move a delayed job that is not due yet to another time; all else of it stays as it was submitted.

        Args:
            job_id: The job, `at-…`.
            delay: Seconds from now, by the server's clock, or a timedelta.
            at: The time, an aware datetime, in the place of a delay.

        Returns:
            The job's status, with its new `scheduled_for`.

        Raises:
            JobError: `NotFound`, if no such delayed job is known; `AlreadyDue` or `AlreadyEnded` (their reason is
                `Validation`), if it waits in its queue, runs or has ended; `AlreadyCancelled`; `Validation`, if what is
                given cannot be used, or the job expires before that time; `RunnerUnavailable`.
        """
        from jsjobs.model.due import checked_due
        from jsjobs.rescheduling import reschedule_job

        if delay is None and at is None:
            raise JobError.from_validation("say when: delay or at; run_now() is for at once")
        due = checked_due(delay, at, await self._clock().now_or_own())
        return await reschedule_job(self.connection, self.config, job_id, due)

    async def run_now(self, job_id: str) -> JobStatusResponse:
        """Let a delayed job that is not due yet begin now, in the turn of its entity; it is run once all the same.

        Args:
            job_id: The job, `at-…`.

        Returns:
            The job's status.

        Raises:
            JobError: As `reschedule`.
        """
        from jsjobs.rescheduling import reschedule_job

        return await reschedule_job(self.connection, self.config, job_id, None)

    async def pause(self, priority: Priority | PriorityName, seconds: float | None = None) -> Paused:
        """Let no further job of a priority start, retries included; what runs goes on, and ends as always.

        Returns once it is known of every job that was delivered before whether it runs: at once, as a rule; after
        `ack_wait` where its worker died a moment ago. Jobs can be submitted all the same. Said again it sets another
        end.

        Args:
            priority: Which.
            seconds: For how long, ten years at most; None: until it is resumed.

        Returns:
            When the pause ends, and the jobs that had begun before.

        Raises:
            JobError: `Validation`, if the priority or the time is none; `NotFound`, if there are no such shards;
                `RunnerUnavailable`, if the server cannot be reached: some shards may be paused then.
        """
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise JobError.from_validation(f"seconds must be a number or None, not {seconds!r}")
        from jsjobs.jetstream.pausing import Pausing

        return await Pausing(self.connection, self._names).pause(_checked(priority), seconds)

    async def resume(self, priority: Priority | PriorityName) -> bool:
        """Let jobs of a priority start again, whoever paused it and by whichever tool; returns once they do.

        Returns:
            Whether it was paused.

        Raises:
            JobError: `Validation`, if the priority is none; `NotFound`, if there are no such shards;
                `RunnerUnavailable`, if the server cannot be reached: some shards may still be paused then.
        """
        from jsjobs.jetstream.pausing import Pausing

        return await Pausing(self.connection, self._names).resume(_checked(priority))

    def letters(self) -> DeadLetters:
        """The dead-letter table, where a database is set."""
        from jsjobs.postgres.dead_letters import DeadLetters

        return DeadLetters(self.database(), self.config.namespace)

    async def replay(
        self, dlq_id: str, *, priority: Priority | PriorityName | None = None, force: bool = False
    ) -> JobId:
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
        other = None if priority is None else _checked(priority)
        from jsjobs.dead_letters.replay import replay_letter

        return await replay_letter(
            self.connection,
            self.config,
            self.letters(),
            dlq_id,
            priority=other,
            force=force,
            telemetry=self._telemetry,
        )


def _checked(priority: Priority | PriorityName) -> Priority:
    try:
        return Priority(priority)
    except ValueError as error:
        text = f"the priority must be one of {', '.join(Priority)}, not {priority!r}"
        raise JobError.from_validation(text) from error
