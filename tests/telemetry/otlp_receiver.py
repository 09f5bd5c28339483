"""A collector: takes OTLP over HTTP, as protobuf, gzip or not, and keeps what came."""

import gzip
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class ReceivedSpan:
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    is_error: bool
    status_text: str
    exceptions: list[dict[str, Any]]
    started: int
    ended: int
    resource: dict[str, Any]


@dataclass
class Receiver:
    spans: list[ReceivedSpan] = field(default_factory=list)
    points: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """The last point of every series: (instance, metric, its labels) to what it says."""
    units: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and content encoding."""

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                encoding = self.headers.get("Content-Encoding", "")
                known = self.headers["Content-Type"] == "application/x-protobuf"
                if known:
                    receiver.take(self.path, encoding, gzip.decompress(body) if encoding == "gzip" else body)
                self.send_response(200 if known else 415)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quietly."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, encoding: str, body: bytes) -> None:
        self.requests.append((path, encoding))
        if path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._take_points(ExportMetricsServiceRequest.FromString(body))

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            resource = plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [received(span, resource) for span in scope.spans]

    def _take_points(self, request: ExportMetricsServiceRequest) -> None:
        for group in request.resource_metrics:
            instance = plain(group.resource.attributes)["service.instance.id"]
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    self.units[metric.name] = metric.unit
                    for point in getattr(metric, kind).data_points:
                        labels = tuple(sorted(plain(point.attributes).items()))
                        value = (point.count, point.sum) if kind == "histogram" else point.as_int
                        self.points[instance, metric.name, labels] = value

    def value(self, metric: str, **labels: object) -> Any:
        """The sum of a metric over all processes and all series with these labels; of a histogram, its count."""
        found = [
            value[0] if isinstance(value, tuple) else value
            for (_, name, own), value in list(self.points.items())
            if name == metric and set(labels.items()) <= set(own)
        ]
        return sum(found) if found else None

    def named(self, name: str, **attributes: object) -> list[ReceivedSpan]:
        """Spans of a name with these attributes (dots written as `_`), oldest first."""
        wanted = {key.replace("_", ".", 1): value for key, value in attributes.items()}
        found = [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]
        return sorted(found, key=lambda span: span.started)

    def by_parent(self) -> dict[str, list[ReceivedSpan]]:
        children = defaultdict(list)
        for span in self.spans:
            children[span.parent_id].append(span)
        return children


def received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=plain(span.attributes),
        is_error=span.status.code == 2,
        status_text=span.status.message,
        exceptions=[plain(event.attributes) for event in span.events if event.name == "exception"],
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        resource=resource,
    )


def plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
