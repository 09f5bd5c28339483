"""Measure what telemetry costs a worker: off, beside the same code without its hooks, and on, beside off.

`none` runs a copy of the package from which every hook is taken out: each statement that begins with
`if telemetry is not None` (or `attempt`, the running span). `off` is the package as it is. `on` exports every span and
metric in batches, as OTLP over HTTP, to a collector that only counts, in a process of its own; `few` is `on` with one
trace of twenty sampled. Each drains a queue of no-op jobs; what is compared is the medians of the ratios within the
rounds, of the rate and of the worker's CPU time, which other processes disturb less. The checks that `off` makes are also
counted and timed alone, since they are less than the noise.
"""

from __future__ import annotations

import ast
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from harness import figures
from harness.catalogue import OURS
from harness.figures import Ratio, Rounds, count
from harness.rounds import Plan, one_drain, take_turns
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import jsjobs

TITLE = "Telemetry"
JOBS = 20_000
HOOKS = {"telemetry", "_telemetry", "attempt"}
CHECKS_PER_JOB = 6
"""The hooks: after the claim, before and at the handler's start, after it, at the count of the outcome, at the span's end."""
SIDES = {
    "none": "without the hooks",
    "off": "off",
    "on": "on, every span and metric exported in batches (OTLP over HTTP)",
    "few": "on, one trace of twenty sampled",
}


class WithoutHooks(ast.NodeTransformer):
    """Remove the code that runs only where telemetry is on."""

    def __init__(self) -> None:
        self.removed = 0

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        tests = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
        match tests[0]:
            case ast.Compare(left=left, ops=[ast.IsNot() | ast.Is() as how], comparators=[ast.Constant(value=None)]):
                name = left.id if isinstance(left, ast.Name) else getattr(left, "attr", "")
                if name in HOOKS:
                    self.removed += 1
                    return node.body if isinstance(how, ast.Is) else (node.orelse or ast.Pass())
        return node


def copy_without_hooks(folder: Path) -> int:
    """Make a copy of the package without hooks, and return how many there were."""
    package = folder / "jsjobs"
    shutil.copytree(Path(jsjobs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    removed = 0
    for part in ("worker", "dead_letters", "."):
        for file in (package / part).glob("*.py"):
            visitor = WithoutHooks()
            tree = visitor.visit(ast.parse(file.read_text()))
            if visitor.removed:
                file.write_text(ast.unparse(ast.fix_missing_locations(tree)))
                removed += visitor.removed
    return removed


class Collector(BaseHTTPRequestHandler):
    """Accept everything, and tell the number of spans when asked."""

    protocol_version = "HTTP/1.1"
    spans: list[bytes] = []  # noqa: RUF012 - one process, one collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("traces"):
            self.spans.append(body)
        self._answer(b"")

    def do_GET(self) -> None:
        requests = map(ExportTraceServiceRequest.FromString, self.spans)
        count = sum(len(s.spans) for request in requests for r in request.resource_spans for s in r.scope_spans)
        self._answer(str(count).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def collect() -> None:
    """Run the collector's process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.daemon_threads = True
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


def spans_at(url: str) -> int:
    """Return the number of spans that arrived."""
    with urlopen(url, timeout=60) as answer:
        return int(answer.read())


@contextmanager
def collector() -> Iterator[str]:
    """Run a collector in a process of its own, and yield its address."""
    command = [sys.executable, "-c", "from workloads.telemetry import collect; collect()"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def measure(plan: Plan) -> dict[str, Any]:
    """Measure all four in turn."""
    with tempfile.TemporaryDirectory() as folder, collector() as endpoint:
        removed = copy_without_hooks(Path(folder))
        assert removed >= CHECKS_PER_JOB
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        few = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        environments = {"none": {"PYTHONPATH": folder}, "off": {}, "on": on, "few": on | few}

        def one(name: str) -> dict[str, Any]:
            return one_drain(plan, OURS, plan.jobs(JOBS), env=environments[name])

        rounds = take_turns(list(SIDES), plan.rounds, one, what="telemetry")
        return {"rounds": rounds, "removed": removed, "spans": spans_at(endpoint), "nanoseconds": checks_alone()}


def checks_alone() -> float:
    """Return the nanoseconds that a job's hooks take where telemetry is off."""
    times = timeit.repeat("if tools.telemetry is not None: pass", "class tools: telemetry = None", number=1_000_000)
    return min(times) * 1000 * CHECKS_PER_JOB


def compare(found: dict[str, Any], one: str, other: str, name: str) -> list[float]:
    """Return the ratios within the rounds; of CPU time inverted, so that more is better."""
    pairs = zip(figures.of(found["rounds"][one], name), figures.of(found["rounds"][other], name), strict=True)
    return [mine / theirs if name == "rate" else theirs / mine for mine, theirs in pairs]


def ratios(found: dict[str, Any]) -> list[Ratio]:
    """Return the comparisons that are asked for, with their bounds."""
    asked = []
    for one, other, bound in (("off", "none", 0.98), ("on", "off", 0.75)):
        values = compare(found, one, other, "rate")
        what = f"telemetry: {one} / {'without its hooks' if other == 'none' else other}, rate"
        asked.append(Ratio(what, statistics.median(values), bound, rounds=tuple(values)))
    return asked


def report(found: dict[str, Any]) -> list[str]:
    """Return a table with a row for each side."""
    rows = [_row(found, name) for name in SIDES]
    jobs = found["rounds"]["off"][0]["jobs"]
    share = found["nanoseconds"] / 1e9 / figures.median(found["rounds"]["off"], "cpu")
    return [
        f"{count(jobs)} jobs, medians of {len(rows and found['rounds']['off'])} rounds, and of the ratios within them.",
        "",
        *figures.table(("", "jobs/s", "CPU per job", "rate beside off", "in the rounds", "CPU beside off"), rows),
        "",
        (
            f"Off: {found['removed']} hooks in the code; the {CHECKS_PER_JOB} that a job meets take "
            f"{found['nanoseconds']:.0f} ns, {share:.3%} of its CPU. {count(found['spans'])} spans arrived at the collector."
        ),
    ]


def _row(found: dict[str, Any], name: str) -> tuple[str, ...]:
    rounds: Rounds = found["rounds"][name]
    rate, cpu = compare(found, name, "off", "rate"), compare(found, name, "off", "cpu")
    return (
        SIDES[name],
        count(figures.median(rounds, "rate")),
        f"{figures.median(rounds, 'cpu') * 1e6:.0f} µs",
        f"{statistics.median(rate):.2f}",
        f"{min(rate):.2f} to {max(rate):.2f}",
        f"{1 / statistics.median(cpu):.2f}",
    )
