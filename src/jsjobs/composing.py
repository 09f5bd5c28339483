"""From what a caller says of a job to its message."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from jsjobs.jetstream import wire
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.queue import JobQueue
from jsjobs.model.checks import problems
from jsjobs.model.context import DEFAULT_TENANT, current_context
from jsjobs.model.errors import JobError
from jsjobs.model.expiry import expires_at
from jsjobs.model.job import Duration, Priority, utc_now
from jsjobs.model.payload import JobPayload
from jsjobs.model.times import rfc3339
from jsjobs.model.trace import NO_TRACE, Trace
from jsjobs.worker.registry import Registry


class Composed(NamedTuple):
    """A job as it can be sent."""

    priority: Priority
    job: Outgoing
    due: datetime | None
    """When it may begin; None: at once."""
    debounce: str | None
    """Whom it replaces, where one with the same key waits."""


class Composer:
    """Makes messages; payloads of types that have a handler in this process are checked against it."""

    def __init__(self, queue: JobQueue, registry: Registry) -> None:
        self._queue = queue
        self._registry = registry

    def compose(
        self,
        form: JobPayload,
        payload: Any,
        trace: Trace = NO_TRACE,
        *,
        index: int | None = None,
        batch: str | None = None,
    ) -> Composed:
        """The message of one job.

        Args:
            form: Its type and options.
            payload: What its handler gets.
            trace: What it carries along.
            index: Its place in its list, if it has a list's dedupe key.
            batch: Its list.

        Raises:
            JobError: `Validation`, if something given cannot be used.
        """
        now = utc_now()
        due = form.due(now)
        tenant = form.tenant or current_context().tenant_id
        headers: dict[str, str] = {}
        if form.dedupe_key is not None:
            key = form.dedupe_key if index is None else f"{form.dedupe_key}:{index}"
            headers[wire.MSG_ID] = owned_key(key, tenant, form.type)
        headers |= self._headers(form, tenant, trace, batch)
        if form.expires is not None:
            headers[wire.EXPIRES] = rfc3339(expires_at(form.expires, due or now))
            if form.expired == "drop":
                headers[wire.EXPIRED] = "drop"
        subject = self._queue.subject(form.priority, form.entity, form.type)
        job = Outgoing(subject, self._body(form.type, payload), headers)
        debounce = None if form.debounce_key is None else owned_key(form.debounce_key, tenant, form.type)
        return Composed(form.priority, job, due or (now if debounce else None), debounce)

    @staticmethod
    def _headers(form: JobPayload, tenant: str | None, trace: Trace, batch: str | None) -> dict[str, str]:
        named = {
            wire.ENTITY: form.entity,
            wire.TENANT: tenant,
            wire.REQUEST_ID: current_context().request_id,
            wire.BATCH: batch,
        }
        headers = {name: value for name, value in named.items() if value is not None}
        if trace.traceparent is not None:
            headers.update(trace.headers)
        if form.max_attempts is not None:
            headers[wire.MAX_ATTEMPTS] = str(form.max_attempts)
        if form.duration is not Duration.SHORT:
            headers[wire.DURATION] = form.duration
        if form.timeout is not None:
            headers[wire.TIMEOUT] = decimal(form.timeout)
        return headers

    def _body(self, job_type: str, payload: Any) -> bytes:
        known = self._registry.get(job_type)
        if known is not None and known.payload is not None:
            try:
                payload = known.payload.validate_python(payload)
            except ValidationError as error:
                raise JobError.from_validation(f"the payload of {job_type} does not fit: {problems(error)}") from None
        return wire.encode_json(payload, f"the payload of {job_type}")


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
