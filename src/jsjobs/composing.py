"""From what a caller says of a job to its message."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from jsjobs.jetstream import wire
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.queue import JobQueue
from jsjobs.jetstream.typed import typed_as, write_untyped
from jsjobs.model.context import DEFAULT_TENANT, current_context
from jsjobs.model.expiry import expires_at
from jsjobs.model.job import Duration, Priority
from jsjobs.model.payload import JobPayload, Written
from jsjobs.model.through_json import PLAIN
from jsjobs.model.times import rfc3339
from jsjobs.model.trace import NO_TRACE, Trace
from jsjobs.worker.registry import Registry
from jsjobs.worker.terms import too_long_for_short


class Composed(NamedTuple):
    """A job as it can be sent."""

    priority: Priority
    job: Outgoing
    due: datetime | None
    """When it may begin; None: at once."""
    debounce: str | None
    """Whom it replaces, where one with the same key waits."""


class Composer:
    """Makes messages.

    A payload is checked against its handler's annotation where that handler is in this process, else against its own
    type.
    """

    def __init__(self, queue: JobQueue, registry: Registry, short: float) -> None:
        """Make messages of one namespace.

        Args:
            queue: Its queues.
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
        """The message of one job.

        Args:
            form: Its type and options.
            payload: What its handler gets.
            trace: What it carries along.
            now: The time by the server's clock, where the job has times: what is given in seconds counts from it.
            index: Its place in its list, if it has a list's dedupe key.
            batch: Its list.

        Raises:
            JobError: `Validation`, if something given cannot be used.
        """
        due = None if now is None else form.due(now)
        tenant = form.tenant or current_context().tenant_id
        headers: dict[str, str] = {}
        if form.dedupe_key is not None:
            key = form.dedupe_key if index is None else f"{form.dedupe_key}:{index}"
            headers[wire.MSG_ID] = owned_key(key, tenant, form.type)
        headers |= self._headers(form, tenant, trace, batch)
        if form.expires is not None:
            assert now is not None
            headers[wire.EXPIRES] = rfc3339(expires_at(form.expires, due or now))
            if form.expired == "drop":
                headers[wire.EXPIRED] = "drop"
        subject = self._queue.subject(form.priority, form.entity, form.type)
        job = Outgoing(subject, body_of(self._registry, form.type, payload), headers)
        debounce = None if form.debounce_key is None else owned_key(form.debounce_key, tenant, form.type)
        return Composed(form.priority, job, due or (now if debounce else None), debounce)

    def _headers(self, form: JobPayload, tenant: str | None, trace: Trace, batch: str | None) -> dict[str, str]:
        named = {
            wire.ENTITY: form.entity,
            wire.TENANT: tenant,
            wire.REQUEST_ID: current_context().request_id,
            wire.BATCH: batch or form.batch_id,
        }
        headers = {name: value for name, value in named.items() if value is not None}
        if trace.traceparent is not None:
            headers.update(trace.headers)
        if form.max_attempts is not None:
            headers[wire.MAX_ATTEMPTS] = str(form.max_attempts)
        if form.duration is not None:
            headers[wire.DURATION] = form.duration
        if form.timeout is not None:
            if form.duration is Duration.SHORT and form.timeout > self._short:
                raise too_long_for_short(form.timeout, self._short)
            headers[wire.TIMEOUT] = decimal(form.timeout)
        return headers


def body_of(registry: Registry, job_type: str, payload: Any) -> bytes:
    """A payload as JSON, from which the handler's argument is read again.

    Raises:
        JobError: `Validation`, naming what does not fit, or would not arrive as it is.
    """
    known = registry.get(job_type)
    typed, what = None if known is None else known.payload, f"the payload of {job_type}"
    if payload.__class__ is Written:
        return payload.raw if typed is None else typed.write(from_json(payload.raw), what)
    if typed is None and payload.__class__ not in PLAIN:
        typed = typed_as(payload.__class__)
    return write_untyped(payload, what) if typed is None else typed.write(payload, what)


def owned_key(key: str, tenant: str | None, job_type: str) -> str:
    """A key that is nobody else's: neither another tenant's nor another type's.

    What comes on a tenant's own subject has keys of its own, which nobody who only names that tenant can reach.
    """
    # A type has no slash, so this one reading is the only one once the tenant has none either.
    owner = (tenant or DEFAULT_TENANT).replace("%", "%25").replace("/", "%2F")
    # Nor is a tenant empty: what begins with a slash is what others cannot say.
    apart = "/" if current_context().on_own_subject else ""
    return f"{apart}{owner}/{job_type}/{key}"


def decimal(seconds: float) -> str:
    """Seconds as the wire writes them: a decimal number without an exponent, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
