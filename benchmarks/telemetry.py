"""What telemetry costs a worker: off, beside the same code without its hooks, and on, beside off.

    python benchmarks/telemetry.py [--jobs 20000] [--rounds 5]

`none` runs a copy of the package from which every hook is taken out: each statement that begins with
`if telemetry is not None` (or `attempt`, the running span). `off` is the package as it is. `on` exports every span and
metric in batches, as OTLP over HTTP, to a collector that only counts, in a process of its own; `few` is `on` with one
trace of twenty sampled. Each drains a queue of
no-op jobs, as `drain.py` does; the sides take turns within a round, and what is compared is the medians of the ratios
within the rounds, of the rate and of the worker's CPU time, which other processes disturb less. The checks that `off`
makes are also counted and timed alone, since they are less than the noise.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import drain
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import jsjobs
from jsjobs.embedded import NatsServer
from jsjobs.telemetry.switch import find_telemetry

HOOKS = {"telemetry", "_telemetry", "attempt"}
CHECKS_PER_JOB = 5
"""After the claim, before the handler, after it, when the outcome is counted, when the span would end."""


class Figures(NamedTuple):
    """Of one drain."""

    rate: float
    """Jobs per second."""
    cpu: float
    """Microseconds of CPU per job."""


class WithoutHooks(ast.NodeTransformer):
    """Takes out what is done only where telemetry is on."""

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
    """A copy of the package that has none; how many there were."""
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
    """Takes everything, and tells the number of spans when it is asked."""

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
        """Quietly."""


def collect() -> None:
    """The collector's process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


def spans_at(url: str) -> int:
    with urlopen(url, timeout=60) as answer:
        return int(answer.read())


def child(url: str, namespace: str, jobs: int) -> None:
    """The worker's process: prints jobs per second, and microseconds of CPU per job, of all its threads."""
    find_telemetry(namespace)  # what importing it and setting it up takes is no job's cost
    started = time.process_time()
    rate = uvloop.run(drain.jsjobs(url, namespace, jobs))
    print(rate, (time.process_time() - started) / jobs * 1e6)


def measure(environment: dict[str, str], url: str, namespace: str, jobs: int) -> Figures:
    """One drain in a process of its own."""
    uvloop.run(drain.fill(url, namespace, jobs))
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, __file__, "--child", url, namespace, str(jobs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own | environment)
    return Figures(*map(float, done.stdout.split()))


def one_round(number: int, environments: dict[str, dict[str, str]], jobs: int) -> dict[str, Figures]:
    """Each side once, in an order that changes from round to round."""
    rates, names = {}, list(environments)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        home = Path(tempfile.mkdtemp())
        with NatsServer(home) as server:
            rates[name] = measure(environments[name], server.url, "b", jobs)
        shutil.rmtree(home)
    print(
        f"round {number + 1} "
        + " ".join(f"{name} {rates[name].rate:7,.0f}/s {rates[name].cpu:4.0f} µs" for name in names),
        flush=True,
    )
    return rates


def main() -> None:
    """Take turns, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collect:
        collect()
        return
    if arguments.child:
        url, namespace, jobs = arguments.child
        child(url, namespace, int(jobs))
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        removed = copy_without_hooks(Path(folder))
        assert removed >= CHECKS_PER_JOB
        collector = subprocess.Popen([sys.executable, __file__, "--collect"], stdout=subprocess.PIPE, text=True)
        stack.callback(collector.wait)
        stack.callback(collector.terminate)
        assert collector.stdout is not None
        endpoint = f"http://127.0.0.1:{int(collector.stdout.readline())}"
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        few = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        environments = {"none": {"PYTHONPATH": folder}, "off": {}, "on": on, "few": on | few}
        rounds = [one_round(number, environments, arguments.jobs) for number in range(arguments.rounds)]
        spans = spans_at(endpoint)
    print(f"medians of {arguments.rounds}, {arguments.jobs:,} jobs, Python {platform.python_version()}:")
    for name in environments:
        rate, cpu = (statistics.median(values) for values in zip(*(found[name] for found in rounds), strict=True))
        print(f"{name:4} {rate:7,.0f} jobs/s, {cpu:4.0f} µs of CPU a job")
    for one, other in (("off", "none"), ("on", "off"), ("few", "off")):
        rates = [found[one].rate / found[other].rate for found in rounds]
        cpus = [found[one].cpu / found[other].cpu for found in rounds]
        print(
            f"{one} / {other}: rate {statistics.median(rates):.3f} ({min(rates):.2f} to {max(rates):.2f}), "
            f"CPU {statistics.median(cpus):.3f} ({min(cpus):.2f} to {max(cpus):.2f})"
        )
    print(f"{spans:,} spans arrived of {arguments.rounds * arguments.jobs:,} attempts on, and of 5 % as many")
    times = timeit.repeat("if tools.telemetry is not None: pass", "class tools: telemetry = None", number=1_000_000)
    nanoseconds = min(times) * 1000 * CHECKS_PER_JOB
    share = nanoseconds / 1000 / statistics.median(found["off"].cpu for found in rounds)
    print(
        f"off: {removed} hooks in the code; the {CHECKS_PER_JOB} that a job meets take {nanoseconds:.0f} ns, {share:.3%} of its CPU"
    )


if __name__ == "__main__":
    main()
