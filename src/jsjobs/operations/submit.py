"""Submit jobs: from a submit's arguments to messages in the queue."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from jsjobs.jetstream.api.server_clock import ServerClock
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import checked_type
from jsjobs.jetstream.schedules.delayed import Debounced, Delayed, DelayedJob
from jsjobs.jetstream.tracking.batches import Batches
from jsjobs.model.checks import checked_list, invalid_item, problems
from jsjobs.model.context import current_context
from jsjobs.model.due import Expired
from jsjobs.model.errors import InvalidBatch, InvalidItem, JobError, Reason
from jsjobs.model.job import Duration, DurationName, JobId, Priority, PriorityName, random_token, utc_now
from jsjobs.model.payload import JobPayload
from jsjobs.model.trace import Trace
from jsjobs.operations.compose import Composed, Composer
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.publishing")


class SubmitOptions(TypedDict, total=False):
    """The options for queueing and running a job; all are optional."""

    priority: Priority | PriorityName
    """`critical`, `high`, `normal` (the default) or `low`."""
    entity: str | None
    """Jobs of one entity at one priority run one at a time, in the order submitted."""
    dedupe_key: str | None
    """Within the dedupe window (2 minutes), a second job of the same tenant, type, key and priority is not queued: its
    submit returns the first one's id, with `duplicate` set. Delayed jobs have separate keys, which apply across all
    priorities. A list's items get `key:index`."""
    max_attempts: int | None
    """Attempts before the job is dead, 1 to 1,000; None for one more than its handler's own policy has retries, else
    3."""
    duration: Duration | DurationName | None
    """`long` for a handler that may outlive `ack_wait` (30 s); None for short, unless its `timeout` needs more."""
    timeout: float | None
    """Seconds that one attempt may take; more than a short job has (25 s) makes it long."""
    delay: float | timedelta | None
    """Seconds until it is due, by the server's clock. Its id has the form `at-…` and is valid as soon as it is
    submitted."""
    at: datetime | None
    """When it is due, as an aware datetime, instead of `delay`; a time in the past means at once."""
    debounce_key: str | None
    """This job replaces a job of the same tenant, type and key, of any priority, that is not due yet, and keeps its
    id."""
    expires: float | timedelta | datetime | None
    """When it expires: seconds from when it is due, a timedelta, or an aware datetime. If it has not started by then,
    it never does."""
    expired: Expired
    """What happens to an expired job: `dead_letter` (the default), or `drop`, with which it fails without a letter."""
    batch_id: str | None
    """The batch that it belongs to; for a list, the id of its batch instead of a generated one."""


OnQueued = Callable[[int], None]
"""Called with the number of a list's jobs that are queued so far."""


class Publisher:
    """Publish submitted jobs: into their queues, or as schedules if they are not due yet."""

    def __init__(
        self,
        queue: JobQueue,
        delayed: Delayed,
        debounced: Debounced,
        composer: Composer,
        batches: Batches,
        clock: ServerClock,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._queue = queue
        self._delayed = delayed
        self._debounced = debounced
        self._composer = composer
        self._batches = batches
        self._clock = clock
        self._telemetry = telemetry

    async def submit(
        self, job_type: str, payload: Any, options: SubmitOptions, on_queued: OnQueued | None = None
    ) -> JobId | list[JobId]:
        """Queue one job, or a list of them as one batch.

        Raises:
            JobError: `Validation`, if something given cannot be used; otherwise see `JobQueue.publish`.
        """
        form = _form(job_type, options)
        trace, receipts = current_context().trace, list[JobId]()
        if self._telemetry is None:
            return await self._submit(form, payload, trace, receipts, on_queued)
        count = len(payload) if isinstance(payload, list) else None
        with self._telemetry.submitting(
            form.type,
            form.priority,
            stream=self._stream(form),
            entity=form.entity,
            tenant=form.tenant or current_context().tenant_id,
            count=count,
        ) as sending:
            try:
                return await self._submit(form, payload, sending.trace, receipts, on_queued)
            finally:  # of a long list some may be queued though the rest was refused
                sending.acknowledged(receipts, [(form.type, form.priority)] * len(receipts))

    async def _submit(
        self, form: JobPayload, payload: Any, trace: Trace, receipts: list[JobId], on_queued: OnQueued | None
    ) -> JobId | list[JobId]:
        if not isinstance(payload, list):
            now = await self._clock.now_or_own() if form.has_times else None
            receipts.append(await self._publish(self._composer.compose(form, payload, trace, now=now)))
            if form.batch_id is not None:
                await self._name_batch(receipts, form.batch_id)
            return receipts[0]
        items = [(form, item, index) for index, item in enumerate(payload)]
        return await self._submit_list(items, trace, receipts, on_queued)

    async def _publish(self, one: Composed) -> JobId:
        if one.due is None:
            return await self._queue.publish(one.job)
        job = DelayedJob(one.job, one.due)
        return await (self._delayed.submit(job) if one.debounce is None else self._debounced.submit(job, one.debounce))

    def _stream(self, form: JobPayload) -> str:
        return self._queue.stream(form.priority, form.entity) if form.due(utc_now()) is None else self._delayed.stream

    async def submit_payloads(self, payloads: Iterable[JobPayload], on_queued: OnQueued | None = None) -> list[JobId]:
        """Queue jobs that each have their own options, in order; neighbours of one priority are published together.

        Raises:
            JobError: `Validation`, if one cannot be used: nothing is queued then. Otherwise see `JobQueue.publish`.
        """
        forms = _checked_forms(payloads)
        items = [(form, form.payload, None) for form in forms]
        trace, receipts = current_context().trace, list[JobId]()
        if self._telemetry is None:
            return await self._submit_list(items, trace, receipts, on_queued)
        types = {form.type for form in forms}
        priorities = {form.priority for form in forms}
        priority = priorities.pop() if len(priorities) == 1 else None
        streams = {self._stream(form) for form in forms}
        with self._telemetry.submitting(
            types.pop() if len(types) == 1 else None,
            priority,
            stream=streams.pop() if len(streams) == 1 else None,
            entity=None,
            tenant=current_context().tenant_id,
            count=len(forms),
        ) as sending:
            try:
                return await self._submit_list(items, sending.trace, receipts, on_queued)
            finally:
                sending.acknowledged(receipts, [(form.type, form.priority) for form in forms])

    async def _submit_list(
        self,
        items: Sequence[tuple[JobPayload, Any, int | None]],
        trace: Trace,
        receipts: list[JobId],
        on_queued: OnQueued | None,
    ) -> list[JobId]:
        """Queue the items as one batch, and record which were queued, even if the rest was refused."""
        given = _batch_of([form for form, _, _ in items])
        batch = given or random_token()
        now = await self._clock.now_or_own() if any(form.has_times for form, _, _ in items) else None
        messages = self._messages(items, trace, batch, now)
        try:
            for _, group in itertools.groupby(messages, key=lambda one: one.job.queue if one.due is None else None):
                await self._publish_list(list(group), receipts, on_queued)
        except Exception as error:
            if not receipts:
                raise
            await self._record(batch, receipts, was_given=given is not None)
            told = f"batch {batch} holds those that are queued"
            if not isinstance(error, JobError):  # `on_queued` is the caller's own
                error.add_note(told)
                raise
            raise JobError(error.reason, f"{error.message}; {told}", job_id=error.job_id) from error
        if receipts:
            await self._record(batch, receipts, was_given=given is not None)
        return receipts

    async def _publish_list(self, some: Sequence[Composed], receipts: list[JobId], on_queued: OnQueued | None) -> None:
        """Publish neighbours that go to one stream."""
        if some[0].due is None:
            await self._queue.publish_batch([one.job for one in some], receipts, on_queued)
        else:
            jobs = [DelayedJob(one.job, one.due) for one in some if one.due is not None]
            await self._delayed.submit_list(jobs, receipts, on_queued)

    def _messages(
        self, items: Sequence[tuple[JobPayload, Any, int | None]], trace: Trace, batch: str, now: datetime | None
    ) -> list[Composed]:
        messages, errors = [], list[InvalidItem]()
        for place, (form, item, index) in enumerate(items):
            try:
                one = self._composer.compose(form, item, trace, now=now, index=index, batch=batch)
            except JobError as error:
                errors.append(invalid_item(place, error, error.message))
                continue
            misfit = (self._queue if one.due is None else self._delayed).misfit(one.job)
            wrong = None if misfit is None else f"it is too large for its queue: {misfit}"
            if one.debounce is not None:
                wrong = "debounce_key is for single jobs: each job of a list would replace the one before"
            if wrong is not None:
                errors.append(InvalidItem(place, Reason.VALIDATION, wrong))
            messages.append(one)
        if errors:
            raise InvalidBatch(errors, len(items))
        return messages

    async def _name_batch(self, receipts: Sequence[JobId], batch: str) -> set[str | None]:
        """Set the receipts' batch to what their jobs' status says; return the batches that duplicates belong to."""
        duplicates = [job_id for job_id in receipts if job_id.duplicate]
        own: dict[str, str | None] = {}
        if duplicates:
            with suppress(JobError):  # the jobs are submitted, even if their batches cannot be read
                own = await self._batches.of_jobs(duplicates)
        for job_id in receipts:
            job_id.batch_id = own.get(job_id) if job_id.duplicate else batch
        return set(own.values())

    async def _record(self, batch: str, receipts: Sequence[JobId], *, was_given: bool) -> None:
        known = await self._name_batch(receipts, batch)
        if known and not was_given and all(job_id.duplicate for job_id in receipts):
            return  # nothing was queued: the first list has its record
        try:
            await self._batches.record(batch, receipts, may_be_there=was_given)
        except JobError as error:
            # The jobs are queued and their ids returned: the caller must not submit them again.
            logger.warning("batch %s is queued, its record could not be stored: %s", batch, error.message)


def _checked_forms(payloads: Iterable[JobPayload]) -> list[JobPayload]:
    given, errors = checked_list("the payloads", payloads), list[InvalidItem]()
    for index, form in enumerate(given):
        if not isinstance(form, JobPayload):
            text = f"it must be a JobService.Payload, not {type(form).__name__}"
            errors.append(InvalidItem(index, Reason.VALIDATION, text))
            continue
        try:
            checked_type(form.type)
        except JobError as error:
            errors.append(replace(invalid_item(index, error, error.message), field="type"))
    if errors:
        raise InvalidBatch(errors, len(given))
    return given


def _batch_of(forms: Sequence[JobPayload]) -> str | None:
    """Return the batch id that a list's jobs give; None if one is to be generated.

    Raises:
        InvalidBatch: If its jobs give several.
    """
    first = next((form.batch_id for form in forms if form.batch_id is not None), None)
    text = "it names batch {}, others {}: a list is one batch"
    others = [
        InvalidItem(index, Reason.VALIDATION, text.format(form.batch_id, first), "batch_id")
        for index, form in enumerate(forms)
        if form.batch_id not in {None, first}
    ]
    if others:
        raise InvalidBatch(others, len(forms))
    return first


def _form(job_type: str, options: SubmitOptions) -> JobPayload:
    try:
        return _known_form(job_type, **options)
    except TypeError:  # unhashable options cannot be cached, and are checked each time
        return _checked_form(job_type, options)


@lru_cache(maxsize=1024, typed=True)
def _known_form(job_type: str, **options: Any) -> JobPayload:
    """Return the checked form from a cache: a caller mostly gives the same options for each job."""
    return _checked_form(job_type, options)


def _checked_form(job_type: str, options: Mapping[str, Any]) -> JobPayload:
    checked_type(job_type)
    try:
        return JobPayload.model_validate({**options, "type": job_type})
    except ValidationError as error:
        raise JobError.from_validation(f"the job cannot be submitted: {problems(error)}", cause=error) from None
