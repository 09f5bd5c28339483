"""Measure how long a cancel takes until it is answered, and until the shard's next job starts, across processes.

The worker runs in a process of its own. In each round a job is submitted, another of the same entity behind it, and the
first one is cancelled once its handler runs; then the second one's result is awaited. `waiting` jobs stand behind one
that runs, so no worker has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvloop
from harness import figures
from harness.figures import milliseconds
from harness.rounds import Plan
from harness.servers import Servers

from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.settings import load

TITLE = "Cancelling"
KINDS = {
    "async": "a running async handler",
    "thread": "a running plain handler, which checks `ctx.cancelled` every millisecond",
    "process": "a handler in a process of its own, which is killed",
    "waiting": "a waiting job",
}
BOUND = 0.1  # seconds: the p99 of cancelling a running job that is promised for an idle machine


def in_process(_: None, ctx: JobService.Context) -> None:
    """Block, in a process of its own, until that process is killed."""
    ctx.report_progress(1)
    while True:
        pass


async def work(url: str) -> None:
    """Run a worker whose handlers say when they have begun, and run until they are stopped."""
    jobs = JobService(JobService.Config(nats_url=url))

    @jobs.handler("async")
    async def in_loop(_: None, ctx: JobService.Context) -> None:
        ctx.report_progress(1)
        await asyncio.sleep(60)

    @jobs.handler("thread")
    def in_thread(_: None, ctx: JobService.Context) -> None:
        ctx.report_progress(1)
        while not ctx.cancelled:
            time.sleep(0.001)

    jobs.register_handler("process", in_process, run_in="process")

    @jobs.handler("behind")
    async def behind(_: None) -> float:
        return time.time()

    async with jobs, jobs.worker():
        print("ready", flush=True)
        await asyncio.Event().wait()


async def running(jobs: JobService, kind: str) -> tuple[float, float]:
    """Return the seconds from the cancel of a running job to its answer, and to the start of the next job in its shard."""
    job_id = await jobs.submit(kind, entity="one", duration="long")
    behind = await jobs.submit("behind", entity="one")
    async with contextlib.aclosing(jobs.progress(job_id)) as updates:
        await anext(updates)
    begin, wall = time.perf_counter(), time.time()
    await jobs.cancel(job_id)
    answered = time.perf_counter() - begin
    return answered, await jobs.result(behind) - wall


async def waiting(jobs: JobService) -> float:
    """Return the seconds from the cancel of a waiting job to its answer."""
    job_id = await jobs.submit("behind", entity="one")
    begin = time.perf_counter()
    await jobs.cancel(job_id)
    return time.perf_counter() - begin


async def cancel_all(url: str, rounds: int) -> dict[str, list[float]]:
    """Return seconds, keyed by what was measured."""
    found: dict[str, list[float]] = {}
    async with JobService(JobService.Config(nats_url=url)) as jobs:
        for kind in ("async", "thread", "process"):
            # A process takes half a second to start.
            count = rounds // 10 if kind == "process" else rounds
            pairs = [await running(jobs, kind) for _ in range(count)]
            found[f"{kind}: cancelled"] = [answered for answered, _ in pairs]
            found[f"{kind}: next start"] = [next_start for _, next_start in pairs]
        first = await jobs.submit("async", entity="one", duration="long")
        found["waiting: cancelled"] = [await waiting(jobs) for _ in range(rounds)]
        await jobs.cancel(first)
    return found


def find(rounds: int) -> dict[str, list[float]]:
    """Return seconds, keyed by what was measured, on a server and with a worker of its own."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(stack.enter_context(Servers()).fresh("nats"))
        uvloop.run(apply(server.url))
        command = [
            sys.executable,
            "-c",
            "import sys; from workloads.cancels import child; child(sys.argv[1])",
            server.url,
        ]
        root = Path(__file__).parents[1]
        pipe = subprocess.PIPE
        worker = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root))
        stack.callback(worker.kill)
        assert worker.stdout is not None
        worker.stdout.readline()
        return uvloop.run(cancel_all(server.url, rounds))


def measure(plan: Plan) -> dict[str, Any]:
    """Return quantiles, in seconds."""
    found = find(plan.jobs(200, 10))
    return {"rounds": plan.jobs(200, 10), **{what: quantiles(seconds) for what, seconds in found.items()}}


def quantiles(seconds: list[float]) -> list[float]:
    """Return p50, p99 and the largest value."""
    ordered = sorted(seconds)
    return [ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1]]


def report(found: dict[str, Any]) -> list[str]:
    """Return a table with a row for each kind of handler."""
    rows = []
    for kind, title in KINDS.items():
        p50, p99, _ = found[f"{kind}: cancelled"]
        following = found.get(f"{kind}: next start")
        rows.append((title, milliseconds(p50), milliseconds(p99), milliseconds(following[1]) if following else ""))
    return [
        (
            f"Milliseconds, one job at a time, {found['rounds']} of each kind (a tenth for processes), from the call to its "
            "answer, and to the start of the next job in the same shard."
        ),
        "",
        *figures.table(("", "p50", "p99", "the next job starts, p99"), rows),
    ]


def child(url: str) -> None:
    """Run the worker's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvloop.run(work(url))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


async def apply(url: str) -> None:
    """Create the streams."""
    connection = Connection()
    await connection.open(url)
    await TopologyReconciler(connection, Names(), load()).apply()
    await connection.close()
