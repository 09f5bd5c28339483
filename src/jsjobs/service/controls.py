"""The part of a service that controls jobs: cancels and moves them, shows and pauses queues, replays dead letters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Priority, PriorityName, checked_priority
from jsjobs.service.connections import Connections

if TYPE_CHECKING:
    from jsjobs.jetstream.topology.pause import Paused
    from jsjobs.operations.queues import Queues
    from jsjobs.postgres.dead_letters import DeadLetters


class Controls(Connections):
    """Cancel, move, pause and replay jobs."""

    async def cancel(self, job_id: str, timeout: float = 30) -> JobStatusResponse:
        """Cancel a job, and return when that is decided.

            status = await jobs.cancel(job_id, timeout=60)

        A job that waits never runs. A job that runs is interrupted: an async handler gets `CancelledError`, and its
        `finally` runs; a plain handler finds `ctx.cancelled` set; a handler in a process is ended with the process.

        Args:
            job_id: The job's id.
            timeout: Seconds to wait for a running job to stop.

        Returns:
            The job's status, `cancelled`.

        Raises:
            JobError: `NotFound`; `AlreadyCancelled`; `AlreadyEnded` (its reason is `Validation`), if the job is
                complete or dead; `Timeout`, if it is still stopping; `RunnerUnavailable`, if no worker has it, or the
                server cannot be reached. After the last two the job may yet be cancelled: call again, or read its
                status.
        """
        from jsjobs.operations.cancel import cancel_job

        return await cancel_job(self.connection, self.config, job_id, timeout=timeout)

    async def reschedule(
        self, job_id: str, *, delay: float | timedelta | None = None, at: datetime | None = None
    ) -> JobStatusResponse:
        """Move a delayed job that is not due yet to another time.

            await jobs.reschedule(job_id, delay=timedelta(hours=2))

        Everything else about the job stays as it was submitted.

        Args:
            job_id: The job's id, `at-…`.
            delay: Seconds from now, by the server's clock, or a timedelta.
            at: The time, an aware datetime, instead of a delay.

        Returns:
            The job's status, with its new `scheduled_for`.

        Raises:
            JobError: `NotFound`, if no such delayed job is known; `AlreadyDue` or `AlreadyEnded` (their reason is
                `Validation`), if it waits in its queue, runs or has ended; `AlreadyCancelled`; `Validation`, if an
                argument is invalid, or the job expires before that time; `RunnerUnavailable`.
        """
        from jsjobs.model.due import checked_due
        from jsjobs.operations.reschedule import reschedule_job

        if delay is None and at is None:
            raise JobError.from_validation("give delay or at; run_now() runs it at once")
        due = checked_due(delay, at, await self._connected.clock.now_or_own())
        return await reschedule_job(self.connection, self.config, job_id, due)

    async def run_now(self, job_id: str) -> JobStatusResponse:
        """Let a delayed job that is not due yet begin now, or wake a job that waits for its next attempt.

        A delayed job still takes its turn among the jobs of its entity, and still runs only once. A job without an
        entity that backs off, or whose handler snoozed, begins its next attempt within a moment. One of an entity
        cannot be woken: it waits at the head of its shard until it is due.

        Args:
            job_id: The job's id: `at-…`, or any id of a job that waits for its next attempt.

        Returns:
            The job's status.

        Raises:
            JobError: See `reschedule`.
        """
        from jsjobs.operations.reschedule import reschedule_job

        return await reschedule_job(self.connection, self.config, job_id, None)

    async def pause(self, priority: Priority | PriorityName, seconds: float | None = None) -> Paused:
        """Stop starting jobs of a priority, retries included.

            paused = await jobs.pause("low", seconds=600)

        Running jobs go on and end as usual. Jobs can still be submitted. A second pause replaces the end of the first.

        The call returns once it is known, of every job that was delivered before, whether it runs. As a rule that is at
        once; where the job's worker died a moment ago it takes `ack_wait`.

        Args:
            priority: The priority to pause.
            seconds: How long to pause, ten years at most; None: until it is resumed.

        Returns:
            When the pause ends, and the jobs that had begun before it.

        Raises:
            JobError: `Validation`, if the priority or the time is invalid; `NotFound`, if the priority has no shards;
                `RunnerUnavailable`, if the server cannot be reached: some shards may be paused then.
        """
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise JobError.from_validation(f"seconds must be a number or None, not {seconds!r}")
        return await self._connected.pausing.pause(checked_priority(priority), seconds)

    async def resume(self, priority: Priority | PriorityName) -> bool:
        """Let jobs of a priority start again, and return once they do.

        It does not matter who paused the priority, or with which tool.

        Returns:
            Whether the priority was paused.

        Raises:
            JobError: `Validation`, if the priority is invalid; `NotFound`, if the priority has no shards;
                `RunnerUnavailable`, if the server cannot be reached: some shards may still be paused then.
        """
        return await self._connected.pausing.resume(checked_priority(priority))

    @property
    def queues(self) -> Queues:
        """Return the queues, to see what waits and runs in them, what is paused, and what holds a shard.

            for queue in await jobs.queues.list():
                print(queue.priority, queue.waiting, queue.running, queue.paused)

        Raises:
            JobError: `RunnerUnavailable`, if the service is not connected.
        """
        return self._connected.queues

    @property
    def dlq(self) -> DeadLetters:
        """Return the dead letters, to list, find, edit, discard and export them.

            for letter in await jobs.dlq.list(type="email.send", limit=20):
                print(letter.id, letter.error_reason)

        Raises:
            JobError: `Validation`, if no database is set or its URL cannot be read.
        """
        from jsjobs.postgres.dead_letters import DeadLetters

        return DeadLetters(self.database(), self.config.namespace)

    async def replay(
        self, dlq_id: str, *, priority: Priority | PriorityName | None = None, force: bool = False
    ) -> JobId:
        """Put a dead job back into its queue.

            new_id = await jobs.replay(str(letter.id))

        It is put back once, however often this is called and by however many callers.

        Args:
            dlq_id: The letter's id, the beginning of it, or the dead job's id.
            priority: A priority other than the job's own.
            force: Whether to replay it although it was replayed or discarded before.

        Returns:
            The new job's id, `replay-…`.

        Raises:
            JobError: `NotFound`; `Validation`, if it was replayed or discarded before; `RunnerUnavailable`.
        """
        other = None if priority is None else checked_priority(priority)
        from jsjobs.dead_letters.replay import replay_letter

        return await replay_letter(
            self.connection,
            self.config,
            self.dlq,
            dlq_id,
            priority=other,
            force=force,
            telemetry=self._telemetry,
        )
