"""The part of a service that puts jobs into their queues."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Unpack, overload

from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.payload import JobPayload
from jsjobs.service.connections import Connections

if TYPE_CHECKING:
    from jsjobs.composing import Composer
    from jsjobs.jetstream.batches import Batches
    from jsjobs.jetstream.connection import Connection
    from jsjobs.jetstream.queue import JobQueue
    from jsjobs.model.batch import BatchStatus
    from jsjobs.publishing import OnQueued, Publisher, SubmitOptions
    from jsjobs.scheduling import Scheduler
    from jsjobs.validating import Validator


class Submits(Connections):
    """Submits jobs, and tells of the batches they were submitted as."""

    _shared_publisher: tuple[Connection, Publisher] | None = None
    """Of the present connection."""

    @overload
    async def submit(
        self, job_type: str, payload: list[Any], *, on_queued: OnQueued | None = None, **options: Unpack[SubmitOptions]
    ) -> list[JobId]: ...
    @overload
    async def submit(
        self, job_type: str, payload: Any = None, *, on_queued: OnQueued | None = None, **options: Unpack[SubmitOptions]
    ) -> JobId: ...
    async def submit(
        self, job_type: str, payload: Any = None, *, on_queued: OnQueued | None = None, **options: Unpack[SubmitOptions]
    ) -> JobId | list[JobId]:
        """Queue one job, or every item of a Python list as one job (a payload that is itself a list: `[[...]]`).

        A list is one batch: all of it is queued or nothing, up to 1,000 items; a longer one goes in chunks of 1,000.

        Args:
            job_type: Which handler runs it.
            payload: Anything JSON can hold: pydantic models, dataclasses, dicts. Checked against the handler's
                annotation where that handler is registered in this process, else against its own type: it reaches
                the handler as it is, or is refused.
            on_queued: Of a list: called with the number of jobs queued so far, after each chunk.
            **options: See `SubmitOptions`: priority, entity, dedupe_key, max_attempts, duration, timeout, delay, at,
                debounce_key, expires, expired.

        Returns:
            The job's id, or the ids in the list's order; each of those knows its `batch_id`.

        Raises:
            JobError: `Validation`, if something given cannot be used: `InvalidBatch`, whose `errors` name all items of
                a list that cannot, before any is queued. `RunnerUnavailable`, if the queue is full or the server cannot
                be reached; its message says whether the job may have been queued.
        """
        return await self._publisher().submit(job_type, payload, options, _checked_call(on_queued))

    enqueue = submit

    async def submit_payloads(
        self, payloads: Iterable[JobPayload], *, on_queued: OnQueued | None = None
    ) -> list[JobId]:
        """As `submit` of a list, of jobs that each say their own type and options; they are one batch all the same.

        Neighbours of one priority are queued together, all or nothing up to 1,000.

        Raises:
            JobError: As `submit`.
        """
        return await self._publisher().submit_payloads(payloads, _checked_call(on_queued))

    async def validate_batch(self, items: Iterable[Any], validator: Validator) -> list[Any]:
        """Check every item of a list, to the last one, whichever fail.

        Args:
            items: What is to be checked.
            validator: A function of one item, plain or async (up to 100 are checked side by side), or a pydantic model.
                It raises, or returns False, where an item is wrong.

        Returns:
            What the validator returned of each; the item itself, where that was None or True.

        Raises:
            JobError: `InvalidBatch` (its reason is `Validation`), listing all that failed; its `errors` are their
                texts by index. `Validation`, if the items are no list or the validator can be none.
        """
        from jsjobs.validating import validate_all

        return await validate_all(items, validator)

    async def batch(self, batch_id: str) -> BatchStatus:
        """How far the jobs of a list are: counts by status, and the ids.

        Args:
            batch_id: As the ids of the list know it: `ids[0].batch_id`.

        Raises:
            JobError: `NotFound`, if no such list was submitted by this library, or its record has expired, 30 days
                after its jobs' own entries; `RunnerUnavailable`, if the server cannot be reached.
        """
        return await self._batches().status(batch_id)

    def schedules(self) -> Scheduler:
        """The periodic schedules: to add, list, show, remove, pause, resume and run them."""
        from jsjobs.jetstream.periodic import Periodic
        from jsjobs.scheduling import Scheduler

        names, timeout = self._names, self.config.timeout
        periodic = Periodic(self.connection, names, timeout=timeout)
        return Scheduler(periodic, self._queue(), self._composer(), names)

    def _publisher(self) -> Publisher:
        connection = self.connection
        if self._shared_publisher is None or self._shared_publisher[0] is not connection:
            self._shared_publisher = connection, self._new_publisher()
        return self._shared_publisher[1]

    def _new_publisher(self) -> Publisher:
        from jsjobs.jetstream.debounced import Debounced
        from jsjobs.jetstream.delayed import Delayed
        from jsjobs.publishing import Publisher

        config, connection, names = self.config, self.connection, self._names
        return Publisher(
            self._queue(),
            Delayed(connection, names, timeout=config.timeout, duplicate_window=config.duplicate_window),
            Debounced(connection, names, timeout=config.timeout, result_ttl=config.result_ttl),
            self._composer(),
            self._batches(),
            self._clock(),
            self._telemetry,
        )

    def _queue(self) -> JobQueue:
        from jsjobs.jetstream.queue import JobQueue

        return JobQueue(self.connection, self._names, timeout=self.config.timeout)

    def _composer(self) -> Composer:
        from jsjobs.composing import Composer
        from jsjobs.worker.lease import LeaseTime

        return Composer(self._queue(), self._registry, LeaseTime(self.config.ack_wait).lease)

    def _batches(self) -> Batches:
        from jsjobs.jetstream.batches import Batches

        config = self.config
        return Batches(self.connection, self._names, result_ttl=config.result_ttl, timeout=config.timeout)


def _checked_call(on_queued: OnQueued | None) -> OnQueued | None:
    # Found out when the first jobs are queued, it would be too late.
    if on_queued is None:
        return None
    if not callable(on_queued):
        raise JobError.from_validation(f"on_queued must be a function, not {type(on_queued).__name__}")
    if iscoroutinefunction(on_queued):
        raise JobError.from_validation("on_queued must be a plain function: nobody awaits what it returns")
    return on_queued
