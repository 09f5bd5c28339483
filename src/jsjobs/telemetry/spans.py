"""The span of an attempt, and the conversion between spans and the trace context sent in headers."""

from __future__ import annotations

from time import perf_counter

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from jsjobs.model.trace import NO_TRACE, Trace
from jsjobs.telemetry.harmless import Harmless
from jsjobs.telemetry.metrics import Labels, Measures

EMPTY = Context()
"""A context without a current span."""


class Attempt:
    """One attempt of a job, from its claim to its settlement; its handler may never begin."""

    __slots__ = ("_claimed_at", "_labels", "_measures", "_ran", "_span", "_started_at", "_waited")

    def __init__(self, span: Span, measures: Measures, labels: Labels, waited: float) -> None:
        self._span = span
        self._measures = measures
        self._labels = labels
        self._waited = waited
        self._claimed_at = perf_counter()
        self._started_at: float | None = None
        self._ran: float | None = None

    def started(self) -> None:
        """Record that the handler begins."""
        now = self._started_at = perf_counter()
        self._measures.count("jobs.running", self._labels)
        with Harmless("how long the job waited"):
            # The handler may have waited for a process to run in.
            wait = self._waited + now - self._claimed_at
            self._measures.wait.record(wait, self._measures.attributes(self._labels))

    def handled(self) -> None:
        """Record that the handler has ended, if it ever began; the settlement follows."""
        if self._started_at is not None and self._ran is None:
            self._ran = perf_counter() - self._started_at
            self._measures.count("jobs.running", self._labels, -1)

    def end(self, outcome: str, verdict: object) -> None:
        """End the span of the attempt, which is settled.

        Args:
            outcome: The outcome that was really settled.
            verdict: The result of the handler's run; one with an `error` is a failure.
        """
        self.handled()  # for an attempt that was abandoned while it ran
        if self._ran is not None and outcome != "lost":
            with Harmless("how long the handler ran"):
                self._measures.run.record(self._ran, self._measures.attributes(self._labels))
        with Harmless("what the attempt came to"):
            self._describe(outcome, verdict)
        with Harmless("the end of the attempt"):
            self._span.end()

    def _describe(self, outcome: str, verdict: object) -> None:
        span = self._span
        span.set_attribute("job.outcome", outcome)
        error: str | None = getattr(verdict, "error", None)
        error_type: str = getattr(verdict, "error_type", "")
        if error is None and outcome == "dead":
            # The handler returned, and its result could not be kept.
            error, error_type = "the result cannot be kept, it is too large", "Validation"
        if error is not None:
            span.add_event("exception", {"exception.type": error_type, "exception.message": error})
            fail(span, error, error_type)


def fail(span: Span, error: str, error_type: str) -> None:
    """Mark the span as ended by this error."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, error))


def trace_of(span: Span) -> Trace:
    """Return the place of the span in its trace."""
    found = span.get_span_context()
    if not found.is_valid:
        return NO_TRACE
    state = found.trace_state.to_header() if found.trace_state else None
    return Trace(f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}", state or None)


def parent_of(found: Trace) -> Context:
    """Return a context in which the next span is a child of that place."""
    if found.traceparent is None:
        return EMPTY
    _, trace_id, span_id, flags = found.traceparent.split("-")
    state = None if found.tracestate is None else TraceState.from_header([found.tracestate])
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
    return set_span_in_context(NonRecordingSpan(remote), EMPTY)
