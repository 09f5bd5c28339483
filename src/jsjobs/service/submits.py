"""The part of a service that submits jobs: one by one, as lists, and on schedules."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Unpack, overload

from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId
from jsjobs.model.payload import JobPayload
from jsjobs.service.connections import Connections

if TYPE_CHECKING:
    from jsjobs.model.batch import BatchStatus
    from jsjobs.operations.periodic_schedules import Scheduler
    from jsjobs.operations.submit import OnQueued, SubmitOptions
    from jsjobs.operations.validate import Validator


class Submits(Connections):
    """Submit jobs, and follow the batches they were submitted as."""

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
        """Submit one job, or one job for each item of a list.

            job_id = await jobs.submit("email.send", {"to": "ada@example.org"}, entity="customer-42")
            ids = await jobs.submit("email.send", [{"to": "ada@example.org"}, {"to": "bob@example.org"}])

        A list is one batch. Up to 1,000 items are queued together, all of them or none; a longer list is queued in
        chunks of 1,000. Write `[[...]]` for a single job whose payload is a list.

        Args:
            job_type: The type of the job, which decides its handler.
            payload: Anything JSON can hold: pydantic models, dataclasses, dicts. It is checked against the handler's
                annotation where that handler is registered in this process, else against its own type. It reaches the
                handler as it is, or is refused.
            on_queued: For a list: called after each chunk with the number of jobs queued so far.
            **options: See `SubmitOptions`: priority, entity, dedupe_key, max_attempts, duration, timeout, delay, at,
                debounce_key, expires, expired.

        Returns:
            The job's id, or the ids in the order of the list; each id of a list knows its `batch_id`.

        Raises:
            JobError: `Validation`, if an argument is invalid. For invalid items of a list it is an `InvalidBatch`,
                raised before any item is queued, whose `errors` name all of them. `RunnerUnavailable`, if the queue is
                full or the server cannot be reached; its message says whether the job may have been queued.
        """
        return await self._connected.publisher.submit(job_type, payload, options, _checked_call(on_queued))

    enqueue = submit

    async def submit_payloads(
        self, payloads: Iterable[JobPayload], *, on_queued: OnQueued | None = None
    ) -> list[JobId]:
        """Submit jobs with types and options of their own, as one batch.

            await jobs.submit_payloads(
                [
                    JobService.Payload(type="email.send", payload={"to": "ada@example.org"}),
                    JobService.Payload(type="report.build", priority=JobService.Priority.LOW),
                ]
            )

        Neighbours of one priority are queued together, up to 1,000 of them, all or none.

        Args:
            payloads: The jobs.
            on_queued: See `submit`.

        Returns:
            The ids, in the order of the jobs.

        Raises:
            JobError: See `submit`.
        """
        return await self._connected.publisher.submit_payloads(payloads, _checked_call(on_queued))

    async def validate_batch(self, items: Iterable[Any], validator: Validator) -> list[Any]:
        """Check every item of a list, also after one has failed.

            rows = await jobs.validate_batch(rows, SendEmail)

        Args:
            items: The items to check.
            validator: A function of one item, plain or async (up to 100 items are checked concurrently), or a pydantic
                model. It raises, or returns False, if an item is invalid.

        Returns:
            For each item what the validator returned, or the item itself where that was None or True.

        Raises:
            JobError: `InvalidBatch` (its reason is `Validation`), listing all items that failed; its `errors` say what
                is wrong with each, by index. `Validation`, if `items` is not a list or the validator is not one.
        """
        from jsjobs.operations.validate import validate_all

        return await validate_all(items, validator)

    async def batch(self, batch_id: str) -> BatchStatus:
        """Return how far a batch is: the number of its jobs by status, and their ids.

            status = await jobs.batch(ids[0].batch_id)
            print(status.ended, "of", status.total)

        Args:
            batch_id: The batch's id, which the ids of its jobs know: `ids[0].batch_id`.

        Raises:
            JobError: `NotFound`, if this library submitted no such batch, or its record has expired, 30 days after its
                jobs' own entries; `RunnerUnavailable`, if the server cannot be reached.
        """
        return await self._connected.batches.status(batch_id)

    @property
    def schedules(self) -> Scheduler:
        """Return the periodic schedules, to add, list, show, remove, pause, resume and run them.

            await jobs.schedules.add("nightly", "report.build", {"days": 1}, cron="0 3 * * *")

        Those that the code declares with `periodic` are among them.
        """
        return self._connected.scheduler


def _checked_call(on_queued: OnQueued | None) -> OnQueued | None:
    # Once the first jobs are queued it would be too late to find this out.
    if on_queued is None:
        return None
    if not callable(on_queued):
        raise JobError.from_validation(f"on_queued must be a function, not {type(on_queued).__name__}")
    if iscoroutinefunction(on_queued):
        raise JobError.from_validation("on_queued must be a plain function: nobody awaits what it returns")
    return on_queued
