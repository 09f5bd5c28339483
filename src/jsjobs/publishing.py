"""From a submit's arguments to messages in the queue."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from jsjobs.jetstream import wire
from jsjobs.jetstream.queue import JobQueue, Outgoing
from jsjobs.jetstream.subjects import checked_type
from jsjobs.model.context import DEFAULT_TENANT, current_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration, JobId, Priority, random_token
from jsjobs.model.payload import JobPayload
from jsjobs.model.trace import Trace
from jsjobs.worker.registry import Registry, problems

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry


class SubmitOptions(TypedDict, total=False):
    """How a job is queued and run; all of it optional."""

    priority: Priority | str
    """`critical`, `high`, `normal` (the default) or `low`."""
    entity: str | None
    """Jobs of one entity at one priority run one at a time, in the order submitted."""
    dedupe_key: str | None
    """Within the dedupe window (2 minutes), a second job of the same tenant, type and key is not queued: its submit
    returns the first one's id, with `duplicate` set. A list's items get `key:index`."""
    max_attempts: int | None
    """Attempts before the job is dead; None: 3."""
    duration: Duration | str
    """`long` for a handler that may outlive `ack_wait` (30 s)."""
    timeout: float | None
    """Seconds that one attempt may take."""


class Publisher:
    """Builds and publishes the messages of submitted jobs."""

    def __init__(self, queue: JobQueue, registry: Registry, telemetry: Telemetry | None = None) -> None:
        self._queue = queue
        self._registry = registry
        self._telemetry = telemetry

    async def submit(self, job_type: str, payload: Any, options: SubmitOptions) -> JobId | list[JobId]:
        """Queue one job, or a list of them as one batch.

        Raises:
            JobError: `Validation`, if something given cannot be used; else as the queue.
        """
        form = _form(job_type, options)
        trace, receipts = current_context().trace, list[JobId]()
        if self._telemetry is None:
            return await self._submit(form, payload, trace, receipts)
        count = len(payload) if isinstance(payload, list) else None
        with self._telemetry.submitting(
            form.type,
            form.priority,
            stream=self._queue.stream(form.priority),
            entity=form.entity,
            tenant=form.tenant or current_context().tenant_id,
            count=count,
        ) as sending:
            try:
                return await self._submit(form, payload, sending.trace, receipts)
            finally:  # of a long list some may be queued though the rest was refused
                sending.acknowledged(receipts, [form.type] * len(receipts))

    async def _submit(self, form: JobPayload, payload: Any, trace: Trace, receipts: list[JobId]) -> JobId | list[JobId]:
        if not isinstance(payload, list):
            receipts.append(await self._queue.publish(self._message(form, payload, trace)))
            return receipts[0]
        batch = random_token()
        messages = []
        for index, item in enumerate(payload):
            try:
                messages.append(self._message(form, item, trace, index=index, batch=batch))
            except JobError as error:
                raise JobError(error.reason, f"item {index}: {error.message}") from None
        return await self._queue.publish_batch(messages, receipts)

    async def submit_payloads(self, payloads: Sequence[JobPayload]) -> list[JobId]:
        """Queue jobs that each say their own options, in order; neighbours of one priority go as one batch.

        Raises:
            JobError: `Validation`, if one cannot be used: nothing is queued then. Else as the queue.
        """
        trace, receipts = current_context().trace, list[JobId]()
        if self._telemetry is None:
            return await self._submit_payloads(payloads, trace, receipts)
        types = {form.type for form in payloads}
        priorities = {form.priority for form in payloads}
        priority = priorities.pop() if len(priorities) == 1 else None
        with self._telemetry.submitting(
            types.pop() if len(types) == 1 else None,
            priority,
            stream=None if priority is None else self._queue.stream(priority),
            entity=None,
            tenant=current_context().tenant_id,
            count=len(payloads),
        ) as sending:
            try:
                return await self._submit_payloads(payloads, sending.trace, receipts)
            finally:
                sending.acknowledged(receipts, [form.type for form in payloads])

    async def _submit_payloads(
        self, payloads: Sequence[JobPayload], trace: Trace, receipts: list[JobId]
    ) -> list[JobId]:
        batch = random_token()
        messages = [(form.priority, self._message(form, form.payload, trace, batch=batch)) for form in payloads]
        for _, group in itertools.groupby(messages, key=lambda message: message[0]):
            await self._queue.publish_batch([message for _, message in group], receipts)
        return receipts

    def _message(
        self, form: JobPayload, payload: Any, trace: Trace, *, index: int | None = None, batch: str | None = None
    ) -> Outgoing:
        context = current_context()
        tenant = form.tenant or context.tenant_id
        headers: dict[str, str] = {}
        if form.dedupe_key is not None:
            # A key is nobody else's: neither another tenant's nor another type's.
            key = form.dedupe_key if index is None else f"{form.dedupe_key}:{index}"
            # A type has no slash, so this one reading is the only one once the tenant has none either.
            owner = (tenant or DEFAULT_TENANT).replace("%", "%25").replace("/", "%2F")
            headers[wire.MSG_ID] = f"{owner}/{form.type}/{key}"
        named = {
            wire.ENTITY: form.entity,
            wire.TENANT: tenant,
            wire.REQUEST_ID: context.request_id,
            wire.BATCH: batch,
        }
        headers.update({name: value for name, value in named.items() if value is not None})
        if trace.traceparent is not None:
            headers.update(trace.headers)
        if form.max_attempts is not None:
            headers[wire.MAX_ATTEMPTS] = str(form.max_attempts)
        if form.duration is not Duration.SHORT:
            headers[wire.DURATION] = form.duration
        if form.timeout is not None:
            headers[wire.TIMEOUT] = decimal(form.timeout)
        subject = self._queue.subject(form.priority, form.entity, form.type)
        return Outgoing(subject, self._body(form.type, payload), headers)

    def _body(self, job_type: str, payload: Any) -> bytes:
        known = self._registry.get(job_type)
        if known is not None and known.payload is not None:
            try:
                payload = known.payload.validate_python(payload)
            except ValidationError as error:
                raise JobError.from_validation(f"the payload of {job_type} does not fit: {problems(error)}") from None
        return wire.encode_json(payload, f"the payload of {job_type}")


def _form(job_type: str, options: SubmitOptions) -> JobPayload:
    checked_type(job_type)
    try:
        return JobPayload.model_validate({**options, "type": job_type})
    except ValidationError as error:
        raise JobError.from_validation(f"the job cannot be submitted: {problems(error)}") from None


def decimal(seconds: float) -> str:
    """Seconds as the wire writes them: a decimal number without an exponent, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
