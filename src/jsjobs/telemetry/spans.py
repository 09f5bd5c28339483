"""The span of an attempt, and the way between spans and the trace context that travels in headers."""

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
from jsjobs.telemetry.measures import Labels, Measures

EMPTY = Context()
"""No span is current in it."""


class Attempt:
    """One attempt of a job, from its claim to its settlement."""

    __slots__ = ("_ended_at", "_labels", "_measures", "_span", "_started_at")

    def __init__(self, span: Span, measures: Measures, labels: Labels) -> None:
        self._span = span
        self._measures = measures
        self._labels = labels
        self._started_at = self._ended_at = perf_counter()

    def handled(self) -> None:
        """The handler has ended; what follows is the settlement."""
        self._ended_at = perf_counter()

    def end(self, outcome: str, verdict: object) -> None:
        """The attempt is settled.

        Args:
            outcome: What was really settled.
            verdict: What the handler's run yielded; one with an `error` is a failure.
        """
        measures = self._measures
        measures.count("jobs.running", self._labels, -1)
        if outcome != "lost":
            with Harmless("how long the handler ran"):
                measures.run.record(self._ended_at - self._started_at, measures.attributes(self._labels))
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
    """The span ends in this error."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, error))


def trace_of(span: Span) -> Trace:
    """Where the span is in its trace."""
    found = span.get_span_context()
    if not found.is_valid:
        return NO_TRACE
    state = found.trace_state.to_header() if found.trace_state else None
    return Trace(f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}", state or None)


def parent_of(found: Trace) -> Context:
    """A context in which the next span is a child of that place."""
    if found.traceparent is None:
        return EMPTY
    _, trace_id, span_id, flags = found.traceparent.split("-")
    state = None if found.tracestate is None else TraceState.from_header([found.tracestate])
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
    return set_span_in_context(NonRecordingSpan(remote), EMPTY)
