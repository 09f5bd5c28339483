"""The part of a service that puts jobs into their queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

from jsjobs.jetstream.queue import JobQueue
from jsjobs.model.job import JobId
from jsjobs.model.payload import JobPayload
from jsjobs.publishing import Publisher, SubmitOptions
from jsjobs.service.connections import Connections


class Submits(Connections):
    """Submits jobs."""

    @overload
    async def submit(self, job_type: str, payload: list[Any], **options: Unpack[SubmitOptions]) -> list[JobId]: ...
    @overload
    async def submit(self, job_type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> JobId: ...
    async def submit(self, job_type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> JobId | list[JobId]:
        """Queue one job, or every item of a Python list as one job (a payload that is itself a list: `[[...]]`).

        A list is one batch: all of it is queued or nothing, up to 1,000 items; a longer one goes in chunks of 1,000.

        Args:
            job_type: Which handler runs it.
            payload: Anything JSON can hold: pydantic models, dataclasses, dicts. Checked against the handler's
                annotation where that handler is registered in this process.
            **options: See `SubmitOptions`: priority, entity, dedupe_key, max_attempts, duration, timeout.

        Returns:
            The job's id, or the ids in the list's order.

        Raises:
            JobError: `Validation`, if something given cannot be used; `RunnerUnavailable`, if the queue is full or the
                server cannot be reached. Its message says whether the job may have been queued.
        """
        return await self._publisher().submit(job_type, payload, options)

    enqueue = submit

    async def submit_payloads(self, payloads: Sequence[JobPayload]) -> list[JobId]:
        """As `submit`, of jobs that each say their own type and options; neighbours of one priority go as one batch."""
        return await self._publisher().submit_payloads(payloads)

    def _publisher(self) -> Publisher:
        queue = JobQueue(self._connected(), self._names, timeout=self.config.timeout)
        return Publisher(queue, self._registry, self._telemetry)
