"""Record spans and metrics of a job: at its submit, while it runs, when it is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from importlib.metadata import version
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, get_current_span, set_span_in_context
from opentelemetry.util.types import AttributeValue

from jsjobs.error_text import text_of
from jsjobs.model.context import DEFAULT_TENANT, RequestContext, enter_context
from jsjobs.model.errors import JobError, clipped
from jsjobs.model.job import JobId, JobStatusResponse, Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.model.queues import Depth
from jsjobs.model.trace import NO_TRACE, Trace
from jsjobs.telemetry.harmless import Harmless
from jsjobs.telemetry.metrics import OTHER, Measures, QueueLook, waited
from jsjobs.telemetry.sdk import flush
from jsjobs.telemetry.spans import EMPTY, Attempt, fail, parent_of, trace_of

_VERSION = version("jsjobs")
_OUTCOMES = {
    "complete": (("jobs.completions", "process"),),
    "retry": (("jobs.failures", "process"), ("jobs.retries", "process")),
    "snoozed": (("jobs.snoozes", "process"),),
    "dead": (("jobs.failures", "process"), ("jobs.dead_lettered", "process")),
    "cancelled": (("jobs.cancellations", "cancel"),),
}


@cache
def _measures() -> Measures:
    return Measures(_VERSION)


class Telemetry:
    """Record what happens to the jobs of one namespace; the instruments belong to the process."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._tracer = trace.get_tracer("jsjobs", _VERSION)
        self._measures = _measures()
        self._fixed: dict[tuple[str, str, Priority], dict[str, str]] = {}

    # -- submitting

    @contextmanager
    def submitting(
        self,
        job_type: str | None,
        priority: Priority | None,
        *,
        stream: str | None,
        entity: str | None,
        tenant: str | None,
        count: int | None = None,
    ) -> Iterator[Sending]:
        """Record a submit in a span, which is the current one inside the block.

        Args:
            job_type: The job type; None where a list has several.
            priority: The priority; None where a list has several.
            stream: The queue; None where a list has several.
            entity: The entity.
            tenant: The tenant that owns the jobs.
            count: The number of jobs, if a list is submitted.
        """
        named = {
            "job.type": job_type,
            "job.priority": None if priority is None else priority.value,
            "job.entity": entity,
            "messaging.destination.name": stream,
            "messaging.batch.message_count": count,
        }
        attributes = {name: value for name, value in named.items() if value is not None}
        attributes |= self._common("submit", "send") | {"job.tenant": tenant or DEFAULT_TENANT}
        sending, token = Sending(self, INVALID_SPAN, NO_TRACE), None
        with Harmless("the submit"):
            sending.trace = trace_of(get_current_span())  # the caller's own, if ours cannot be started
            span = self._tracer.start_span("job.submit", kind=SpanKind.PRODUCER, attributes=attributes)
            sending = Sending(self, span, trace_of(span))
            token = attach(set_span_in_context(span))
        try:
            yield sending
        except BaseException as error:
            with Harmless("the error of a submit"):
                name = error.reason if isinstance(error, JobError) else type(error).__qualname__
                fail(sending.span, clipped(text_of(error)), str(name))
            raise
        finally:
            with Harmless("the end of the submit"):
                if token is not None:
                    detach(token)
                sending.span.end()

    def submitted(self, ids: Sequence[JobId], kinds: Sequence[tuple[str, Priority]]) -> None:
        """Count the jobs of a submit that the server took, by type and priority."""
        for job_id, (job_type, priority) in zip(ids, kinds, strict=False):
            if not job_id.duplicate:
                self.count("jobs.submitted", job_type, "submit", priority)

    # -- running

    def expect(self, types: Sequence[str]) -> None:
        """Reserve labels for these types, so that strangers' types cannot use up the room first."""
        for job_type in types:
            self._measures.label(job_type)

    def begin(
        self, context: RequestContext, priority: Priority, entry: JobStatusResponse, *, stream: str, now: datetime
    ) -> Attempt | None:
        """Begin the span of an attempt whose claim is written; it is the current span of this task from now on.

        Args:
            context: The job's context; its trace is the span's parent.
            priority: The job's priority.
            entry: The job's entry, as it was claimed.
            stream: The queue.
            now: The current time by the worker's clock.

        Returns:
            The attempt; None if a span processor of the application failed: no job fails because of that.
        """
        with Harmless("the attempt"):
            return self._begin(context, priority, entry, stream, now)
        return None

    def _begin(
        self, context: RequestContext, priority: Priority, entry: JobStatusResponse, stream: str, now: datetime
    ) -> Attempt:
        job_type, job_id = context.entity_type or "", context.job_id or ""
        attributes: dict[str, AttributeValue] = {
            **self._of_type(job_type, priority, stream),
            "job.id": job_id,
            "messaging.message.id": job_id,
            "job.lane": (Lane.PARALLEL if context.shard_id is None else Lane.ORDERED).value,
            "job.attempt": entry.attempts,
            "job.tenant": context.tenant_id or DEFAULT_TENANT,
        }
        if context.shard_id is not None:
            attributes |= {
                "job.shard": context.shard_id,
                "messaging.destination.partition.id": str(context.shard_id),
            }
        if context.entity_id is not None:
            attributes["job.entity"] = context.entity_id
        span = self._tracer.start_span("job.process", parent_of(context.trace), SpanKind.CONSUMER, attributes)
        attach(set_span_in_context(span, EMPTY))
        own = (context.tenant_id, context.request_id, context.entity_id, job_type, context.shard_id, job_id)
        enter_context(RequestContext(*own, trace_of(span)))
        labels = (self._measures.label(job_type), "process", priority.value)
        return Attempt(span, self._measures, labels, waited(entry, now))

    def _of_type(self, job_type: str, priority: Priority, stream: str) -> dict[str, str]:
        key = (job_type, stream, priority)
        fixed = self._fixed.get(key)
        if fixed is None:
            fixed = {
                **self._common("process", "process"),
                "job.type": job_type,
                "job.priority": priority.value,
                "messaging.destination.name": stream,
            }
            if self._measures.label(job_type) is not OTHER:
                self._fixed[key] = fixed
        return fixed

    def _common(self, name: str, kind: str) -> dict[str, str]:
        return {
            "entity.service": self._namespace,
            "entity.version": _VERSION,
            "messaging.system": "nats",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
        }

    # -- settling and counting

    def settled(self, job_type: str, priority: str, outcome: str) -> None:
        """Count the outcome of an attempt, once it is written."""
        for name, operation in _OUTCOMES.get(outcome, ()):
            self.count(name, job_type, operation, priority)

    def count(self, name: str, job_type: str, operation: str, priority: str) -> None:
        """Count one job."""
        labels = (self._measures.label(job_type), operation, str(priority))
        self._measures.count(name, labels)

    def queues(self, depths: dict[Depth, int], enqueued: dict[Queue, int], letters: int) -> None:
        """Set the server's last numbers for this namespace's queues; see `QueueLook`."""
        with Harmless("what the queues hold"):
            self._measures.queues(self._namespace, QueueLook(depths, enqueued, letters))

    def no_queues(self) -> None:
        """Forget the numbers of this namespace's queues, which are no longer refreshed."""
        self._measures.no_queues(self._namespace)

    @staticmethod
    async def flush() -> None:
        """Export what was recorded so far, within a bounded time and without blocking the event loop."""
        done, loop, started = asyncio.Event(), asyncio.get_running_loop(), False

        def work() -> None:
            try:
                with Harmless("the last data"):
                    flush()
            finally:
                with suppress(RuntimeError):  # nobody is waiting any more
                    loop.call_soon_threadsafe(done.set)

        with Harmless("the last data"):
            Thread(target=work, daemon=True).start()
            started = True
        if started:
            await done.wait()


class Sending:
    """A submit in progress."""

    def __init__(self, telemetry: Telemetry, span: Span, trace: Trace) -> None:
        self._telemetry = telemetry
        self.span = span
        """The span of the submit; an invalid one where it is not recorded."""
        self.trace = trace
        """The trace context that the jobs carry along."""

    def acknowledged(self, ids: Sequence[JobId], kinds: Sequence[tuple[str, Priority]]) -> None:
        """Record the jobs that the server took now or before; `kinds` has their types and priorities in order."""
        self._telemetry.submitted(ids, kinds)
        if len(ids) == 1:
            with Harmless("the id of a submitted job"):
                self.span.set_attribute("job.id", str(ids[0]))
                self.span.set_attribute("messaging.message.id", str(ids[0]))
