"""Set up OpenTelemetry's SDK from the environment, where the application has not done so itself."""

from __future__ import annotations

import atexit
import logging
import os
import uuid
from importlib.metadata import version
from threading import Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.telemetry")

_QUEUE = 8192  # spans; the SDK's own 2,048 are half a second's worth of a busy worker
_SAY_AGAIN = 600.0
_NOISY = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal", "opentelemetry.sdk.metrics._internal.export")
"""Loggers that log every batch; they have no public names."""
_HEADERS = "opentelemetry.util.re"
"""The logger that repeats a header of the environment that it cannot read, including a token in it."""
LAST_WORD = 1.5
"""Seconds that a flush may take: an unreachable collector must not keep a process from ending."""

_lock = Lock()
_pipeline: Pipeline | None = None


class Pipeline:
    """The pipeline that exports this process's telemetry, and that is flushed in a bounded time."""

    def __init__(self, exporters: dict[str, str | None]) -> None:
        self._exporters: list[Any] = []
        self._flushes: list[Any] = []
        self._stuck: list[Thread] = []
        self._trouble = _Trouble()
        resource = _resource()
        # Both are created before anything is installed: the environment's values may be refused here.
        spans = _made(exporters["traces"], {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter})
        points = _made(exporters["metrics"], {"otlp": OTLPMetricExporter, "console": ConsoleMetricExporter})
        if spans is not None:
            self._trace(spans, resource)
        if points is not None:
            self._measure(points, resource)
        atexit.register(self._end)

    def _trace(self, exporter: Any, resource: Resource) -> None:
        queue = None if "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ else _QUEUE
        processor = BatchSpanProcessor(exporter, max_queue_size=queue)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
        self._exporters.append(exporter)
        self._flushes.append(processor.force_flush)

    def _measure(self, exporter: Any, resource: Resource) -> None:
        reader = PeriodicExportingMetricReader(exporter)
        metrics.set_meter_provider(MeterProvider([reader], resource=resource, shutdown_on_exit=False))
        self._exporters.append(exporter)
        self._flushes.append(reader.force_flush)

    def flush(self) -> None:
        """Export what was recorded so far, within `LAST_WORD`; do nothing while an earlier flush is stuck."""
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if self._stuck:
            return
        # The SDK's own flushes respect no time limit.
        threads = [Thread(target=flush, daemon=True) for flush in self._flushes]
        deadline = monotonic() + LAST_WORD
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        self._stuck = [thread for thread in threads if thread.is_alive()]
        if self._stuck:
            self._trouble.say(f"was not delivered within {LAST_WORD:g} s")

    def _end(self) -> None:
        self.flush()
        for exporter in self._exporters:
            exporter.shutdown()  # also ends its retries


class _Trouble(logging.Handler):
    """Log seldom, and in one line, what the SDK would log with every batch; its own texts may hold credentials."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said_at: float | None = None
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        try:
            parts = urlsplit(endpoint or "http://localhost:4318")
            self._collector = f"the collector at {parts.hostname}" + (f":{parts.port}" if parts.port else "")
        except ValueError:
            self._collector = "the collector"
        for name in (*_NOISY, _HEADERS):
            theirs = logging.getLogger(name)
            theirs.addHandler(self)
            theirs.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record in words of our own."""
        if record.name == _HEADERS:
            self.say("goes without a header: OTEL_EXPORTER_OTLP_HEADERS has an entry that is not name=value")
            return
        if record.getMessage().startswith("Queue full"):
            self.say("comes faster than it can be exported, some is dropped")
            return
        why = next((type(part).__name__ for part in record.args or () if isinstance(part, Exception)), None)
        self.say("cannot be delivered" + (f" ({why})" if why else ""))

    def say(self, what: str) -> None:
        """Log one line, at most every ten minutes."""
        now = monotonic()
        if self._said_at is None or now - self._said_at > _SAY_AGAIN:
            self._said_at = now
            logger.warning("telemetry for %s %s; jobs are not affected", self._collector, what)


def set_up(exporters: dict[str, str | None]) -> None:
    """Install the providers, once per process.

    Args:
        exporters: `otlp`, `console` or None for `traces` and `metrics`.
    """
    global _pipeline  # noqa: PLW0603 - OpenTelemetry's providers are global too
    with _lock:
        if _pipeline is None:
            _pipeline = Pipeline(exporters)


def flush() -> None:
    """Export what was recorded so far, within `LAST_WORD`; do nothing where the application has its own providers."""
    if _pipeline is not None:
        _pipeline.flush()


def _made(name: str | None, kinds: dict[str, type]) -> Any:
    return None if name is None else kinds[name]()


def _resource() -> Resource:
    own = {
        "service.name": "jsjobs",
        "service.version": version("jsjobs"),
        "service.instance.id": str(uuid.uuid4()),  # counters of two workers are two series
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in given})
