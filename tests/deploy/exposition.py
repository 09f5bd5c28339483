"""Every metric of jsjobs as Prometheus sees it: run as a process, since OpenTelemetry's provider is the process's own."""

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.model.queues import Depth
from jsjobs.telemetry.metrics import Measures, QueueLook

COUNTED = (
    "jobs.submitted",
    "jobs.completions",
    "jobs.failures",
    "jobs.retries",
    "jobs.snoozes",
    "jobs.dead_lettered",
    "jobs.cancellations",
    "jobs.running",
)


def main() -> None:
    registry = CollectorRegistry()
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader(registry=registry)]))
    measures = Measures("0")
    labels = ("email.send", "process", "high")
    for name in COUNTED:
        measures.count(name, labels)
    measures.run.record(0.2, measures.attributes(labels))
    measures.wait.record(0.2, measures.attributes(labels))
    ordered, parallel = Queue(Priority.HIGH), Queue(Priority.HIGH, Lane.PARALLEL)
    depths = {Depth(queue, 0, state): 3 for queue in (ordered, parallel) for state in ("waiting", "running")}
    measures.queues("jobs", QueueLook(depths, {ordered: 7, parallel: 9}, letters=2))
    print(generate_latest(registry).decode())  # noqa: T201 - its whole purpose


if __name__ == "__main__":
    main()
