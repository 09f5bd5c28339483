"""Providers that an application installs itself."""

import builtins
import os
from collections.abc import Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import ExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext


def fail_at(*places: str) -> None:
    """Fail if this is where the host is broken."""
    if os.environ.get("HOST_IS_BROKEN") in places:
        raise getattr(builtins, os.environ.get("HOST_RAISES", "RuntimeError"))("it is broken")


class Broken(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        fail_at("start")

    def on_end(self, span: ReadableSpan) -> None:
        fail_at("end")


class BrokenExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        fail_at("export")
        return SpanExportResult.SUCCESS


class BrokenSampler(Sampler):
    def should_sample(self, *arguments: Any, **named: Any) -> SamplingResult:
        fail_at("sampler")
        return ALWAYS_ON.should_sample(*arguments, **named)

    def get_description(self) -> str:
        return "broken"


class BrokenFilter(ExemplarFilter):
    def should_sample(self, *arguments: Any) -> bool:
        fail_at("record")
        return False


class BrokenSpan(NonRecordingSpan):
    """Of a tracer that is not the SDK's."""

    def set_attribute(self, *arguments: Any) -> None:
        fail_at("span")

    def add_event(self, *arguments: Any) -> None:
        fail_at("span")

    def set_status(self, *arguments: Any) -> None:
        fail_at("span")

    def end(self, end_time: int | None = None) -> None:
        fail_at("span")

    def get_span_context(self) -> SpanContext:
        fail_at("span context")
        return super().get_span_context()


class OwnTracer(trace.NoOpTracer):
    def start_span(self, *arguments: Any, **named: Any) -> trace.Span:
        return BrokenSpan(SpanContext(1, 1, is_remote=False))


class OwnProvider(trace.TracerProvider):
    def get_tracer(self, *arguments: Any, **named: Any) -> trace.Tracer:
        fail_at("tracer")
        return OwnTracer()


class BrokenMeters(MeterProvider):
    def get_meter(self, *arguments: Any, **named: Any) -> metrics.Meter:
        fail_at("meter")
        return super().get_meter(*arguments, **named)


def install_providers(endpoint: str) -> None:
    resource = Resource.create({"service.name": "the host", "service.instance.id": "host"})
    traces = TracerProvider(resource=resource, sampler=BrokenSampler())
    traces.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    traces.add_span_processor(Broken())
    traces.add_span_processor(SimpleSpanProcessor(BrokenExporter()))
    has_own = os.environ.get("HOST_IS_BROKEN") in {"span", "span context", "tracer"}
    trace.set_tracer_provider(OwnProvider() if has_own else traces)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics"), 200)
    metrics.set_meter_provider(BrokenMeters([reader], resource=resource, exemplar_filter=BrokenFilter()))
