"""Turn a caller's description of a job into its message."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from jsjobs.handlers.attempt_limits import too_long_for_short
from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.jobs.queue import JobQueue, OutgoingJob
from jsjobs.jetstream.protocol.headers import (
    BATCH,
    DURATION,
    ENTITY,
    EXPIRED,
    EXPIRES,
    MAX_ATTEMPTS,
    MSG_ID,
    REQUEST_ID,
    TENANT,
    TIMEOUT,
)
from jsjobs.jetstream.protocol.typed_values import typed_as, write_untyped
from jsjobs.model.context import current_context
from jsjobs.model.due import expires_at
from jsjobs.model.job import Duration
from jsjobs.model.payload import JobPayload, Written
from jsjobs.model.through_json import PLAIN
from jsjobs.model.times import rfc3339
from jsjobs.model.trace import NO_TRACE, Trace
from jsjobs.operations.dedupe import owned_key


class Composed(NamedTuple):
    """A job that is ready to be sent."""

    job: OutgoingJob
    due: datetime | None
    """When it may begin; None for at once."""
    debounce: str | None
    """The key of the waiting job that it replaces, if there is one; None if it replaces none."""


class Composer:
    """Compose the messages of jobs.

    A payload is checked against its handler's annotation if the handler is in this process, else against its own type.
    """

    def __init__(self, queue: JobQueue, registry: Registry, short: float) -> None:
        """Prepare to compose messages of one namespace.

        Args:
            queue: The namespace's queues.
            registry: The handlers of this process.
            short: Seconds that a short job may run, as far as is known here.
        """
        self._queue = queue
        self._registry = registry
        self._short = short

    def compose(
        self,
        form: JobPayload,
        payload: Any,
        trace: Trace = NO_TRACE,
        *,
        now: datetime | None = None,
        index: int | None = None,
        batch: str | None = None,
    ) -> Composed:
        """Compose the message of one job.

        Args:
            form: Its type and options.
            payload: The payload for its handler.
            trace: The trace that it carries along.
            now: The time by the server's clock, for a job with times: options in seconds count from it.
            index: Its index in its list, if it has a list's dedupe key.
            batch: The id of its list's batch.

        Raises:
            JobError: `Validation`, if something given cannot be used.
        """
        due = None if now is None else form.due(now)
        tenant = form.tenant or current_context().tenant_id
        headers: dict[str, str] = {}
        if form.dedupe_key is not None:
            key = form.dedupe_key if index is None else f"{form.dedupe_key}:{index}"
            headers[MSG_ID] = owned_key(key, tenant, form.type)
        headers |= self._headers(form, tenant, trace, batch)
        if form.expires is not None:
            assert now is not None
            headers[EXPIRES] = rfc3339(expires_at(form.expires, due or now))
            if form.expired == "drop":
                headers[EXPIRED] = "drop"
        data = body_of(self._registry, form.type, payload)
        job = self._queue.job(form.priority, form.entity, form.type, data, headers)
        debounce = None if form.debounce_key is None else owned_key(form.debounce_key, tenant, form.type)
        return Composed(job, due or (now if debounce else None), debounce)

    def _headers(self, form: JobPayload, tenant: str | None, trace: Trace, batch: str | None) -> dict[str, str]:
        named = {
            ENTITY: form.entity,
            TENANT: tenant,
            REQUEST_ID: current_context().request_id,
            BATCH: batch or form.batch_id,
        }
        headers = {name: value for name, value in named.items() if value is not None}
        if trace.traceparent is not None:
            headers.update(trace.headers)
        if form.max_attempts is not None:
            headers[MAX_ATTEMPTS] = str(form.max_attempts)
        if form.duration is not None:
            headers[DURATION] = form.duration
        if form.timeout is not None:
            if form.duration is Duration.SHORT and form.timeout > self._short:
                raise too_long_for_short(form.timeout, self._short)
            headers[TIMEOUT] = decimal(form.timeout)
        return headers


def body_of(registry: Registry, job_type: str, payload: Any) -> bytes:
    """Return a payload as JSON, from which the handler's argument is read again.

    Raises:
        JobError: `Validation`, naming what does not fit, or would not arrive unchanged.
    """
    known = registry.get(job_type)
    typed, what = None if known is None else known.payload, f"the payload of {job_type}"
    if payload.__class__ is Written:
        return payload.raw if typed is None else typed.write(from_json(payload.raw), what)
    if typed is None and payload.__class__ not in PLAIN:
        typed = typed_as(payload.__class__)
    return write_untyped(payload, what) if typed is None else typed.write(payload, what)


def decimal(seconds: float) -> str:
    """Format seconds for a header: a decimal number without an exponent, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
