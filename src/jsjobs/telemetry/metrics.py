"""Record metrics under the names that dashboards are built on, among them how long a job waited for its handler.

Counts are kept as plain integers and read when they are exported. On a job's way only its two durations cost a call
into OpenTelemetry.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from threading import Lock
from typing import NamedTuple, TypeVar

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.model.lanes import Lane, Queue
from jsjobs.model.queues import Depth

K = TypeVar("K")

MAX_TYPES = 200
"""The most values of the label `type` in one process, as types come from strangers; all further ones are `_OTHER`."""
OTHER = "_OTHER"

_JOBS = "{job}"
_COUNTERS = {
    "jobs.submitted": "Jobs that this process submitted or replayed; duplicates are not counted",
    "jobs.completions": "Jobs that completed",
    "jobs.failures": "Attempts that ended in an error",
    "jobs.retries": "Failed attempts after which the job is retried",
    "jobs.snoozes": "Attempts whose handler asked to be called again later",
    "jobs.dead_lettered": "Jobs that died",
    "jobs.cancellations": "Jobs that were cancelled",
}
_RUNNING = "jobs.running"
_MINUTE, _HOUR = 60.0, 3600.0
_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(_MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR),
)
Labels = tuple[str, str, str]
"""Type, operation and priority."""


class QueueLook(NamedTuple):
    """The server's numbers for the queues of a namespace."""

    depths: dict[Depth, int]
    """The number of jobs in each shard and partition, by state."""
    enqueued: dict[Queue, int]
    """The number of jobs that each queue has taken since it was created."""
    letters: int
    """The number of dead-letter messages, which are on their way to the database."""


class Measures:
    """The instruments of this process."""

    def __init__(self, version: str) -> None:
        self._lock = Lock()
        self._counts: dict[str, defaultdict[Labels, int]] = {name: defaultdict(int) for name in (*_COUNTERS, _RUNNING)}
        self._types: set[str] = set()
        self._labels: dict[Labels, dict[str, str]] = {}
        self._queues: dict[str, QueueLook] = {}
        self._has_gauges = False
        self._meter = meter = metrics.get_meter("jsjobs", version)
        for name, description in _COUNTERS.items():
            meter.create_observable_counter(name, [self._reader(name)], _JOBS, description)
        running = "Jobs whose handler is running"
        meter.create_observable_up_down_counter(_RUNNING, [self._reader(_RUNNING)], _JOBS, running)
        self.run = meter.create_histogram(
            "jobs.run.duration",
            "s",
            "Time that a handler ran, one value per attempt",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.wait = meter.create_histogram(
            "jobs.wait.duration",
            "s",
            "Time from when a job could have run to its handler's start",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def label(self, job_type: str) -> str:
        """Return the job type as a label."""
        if job_type in self._types:
            return job_type
        with self._lock:
            if len(self._types) >= MAX_TYPES:
                return OTHER
            self._types.add(job_type)
        return job_type

    def attributes(self, labels: Labels) -> dict[str, str]:
        """Return labels as OpenTelemetry takes them, as a dict that is created once."""
        known = self._labels.get(labels)
        if known is None:
            known = self._labels[labels] = dict(zip(("type", "operation", "priority"), labels, strict=True))
        return known

    def count(self, name: str, labels: Labels, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:  # a process may have several event loops
            self._counts[name][labels] += by

    def _reader(self, name: str) -> metrics.CallbackT:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                counts = list(self._counts[name].items())
            return [Observation(value, self.attributes(labels)) for labels, value in counts]

        return read

    # -- numbers of the queues themselves, only where they are asked for

    def queues(self, namespace: str, look: QueueLook) -> None:
        """Set the server's last numbers for a namespace's queues; the first call creates these instruments."""
        self._queues[namespace] = look
        if not self._has_gauges:
            self._has_gauges = True
            taken = "Jobs that the queues have taken, whoever published them"
            depth, letter = (
                "Jobs in the queues, per shard or partition",
                "Dead-letter messages on their way to the database",
            )
            self._meter.create_observable_counter("jobs.enqueued", [self._read_enqueued], _JOBS, taken)
            self._meter.create_observable_gauge("jobs.queue.depth", [self._read_depth], _JOBS, depth)
            self._meter.create_observable_gauge("jobs.dead_letters.waiting", [self._read_letters], _JOBS, letter)

    def no_queues(self, namespace: str) -> None:
        """Forget the numbers of a namespace that are no longer refreshed: an old number is worse than none."""
        self._queues.pop(namespace, None)

    def _read_enqueued(self, _: CallbackOptions) -> Iterable[Observation]:
        for queue, count in self._sum(look.enqueued for look in list(self._queues.values())).items():
            yield Observation(count, _labels_of(queue))

    def _read_depth(self, _: CallbackOptions) -> Iterable[Observation]:
        for depth, jobs in self._sum(look.depths for look in list(self._queues.values())).items():
            part = "shard" if depth.queue.lane is Lane.ORDERED else "partition"
            yield Observation(jobs, {**_labels_of(depth.queue), part: depth.number, "state": depth.state})

    def _read_letters(self, _: CallbackOptions) -> Iterable[Observation]:
        known = [look.letters for look in list(self._queues.values())]
        return [Observation(sum(known))] if known else []

    @staticmethod
    def _sum(counts: Iterable[dict[K, int]]) -> Counter[K]:
        """Add up the counts of all namespaces: metrics do not name them."""
        total: Counter[K] = Counter()
        for each in counts:
            total.update(each)
        return total


def _labels_of(queue: Queue) -> dict[str, str]:
    return {"priority": queue.priority.value, "lane": queue.lane.value}


def waited(entry: JobStatusResponse, now: datetime) -> float:
    """Return the seconds since a job that has just been claimed could have run.

    They count from when it was stored, or from when its retry was due. For a job that a stopping worker released, they
    count from the release.
    """
    # The last item is the claim itself.
    queued = (item.timestamp for item in entry.history[-2:-1] if item.status is Status.QUEUED)
    moments = [*queued, *filter(None, (entry.created_at, entry.scheduled_for, entry.next_attempt_at))]
    return max(0.0, (now - max(moments)).total_seconds()) if moments else 0.0
