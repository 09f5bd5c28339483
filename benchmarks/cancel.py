"""How long a cancel takes until it is decided, and until the shard goes on, across processes.

    python benchmarks/cancel.py [--rounds 500]

The worker runs in a process of its own. In each round a job is submitted, another of the same entity behind it, and the
first one is cancelled once its handler runs; then the second one's result is awaited. `waiting` jobs stand behind one
that runs, so no worker has them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from jsjobs import JobService
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.settings import load

BOUND = 0.1  # seconds: the p99 of cancelling a running job that is promised for an idle machine


def in_process(_: None, ctx: JobService.Context) -> None:
    """A handler with a process of its own, which is ended with it."""
    ctx.report_progress(1)
    while True:
        pass


async def work(url: str) -> None:
    """A worker whose handlers say when they have begun, and run until they are stopped."""
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
    """Seconds from the cancel of a running job to its answer, and to the start of the next one in its shard."""
    job_id = await jobs.submit(kind, entity="one", duration="long")
    behind = await jobs.submit("behind", entity="one")
    async with contextlib.aclosing(jobs.progress(job_id)) as updates:
        await anext(updates)
    begin, wall = time.perf_counter(), time.time()
    await jobs.cancel(job_id)
    answered = time.perf_counter() - begin
    return answered, await jobs.result(behind) - wall


async def waiting(jobs: JobService) -> float:
    """Seconds from the cancel of a job that waits to its answer."""
    job_id = await jobs.submit("behind", entity="one")
    begin = time.perf_counter()
    await jobs.cancel(job_id)
    return time.perf_counter() - begin


async def measure(url: str, rounds: int) -> dict[str, list[float]]:
    """Seconds, by what was measured."""
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


async def apply(url: str) -> None:
    """The streams."""
    connection = Connection()
    await connection.open(url)
    await Topology(connection, Names(), load()).apply()
    await connection.close()


def main() -> None:
    """Start the server and the worker, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        uvloop.run(work(arguments.child))
        return
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(NatsServer(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        uvloop.run(apply(server.url))
        command = [sys.executable, __file__, "--child", server.url]
        child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(child.kill)
        child.stdout.readline()
        found = uvloop.run(measure(server.url, arguments.rounds))
    print(f"{arguments.rounds} cancels each (of processes a tenth), one at a time, across processes:")
    for what, seconds in found.items():
        ordered = sorted(seconds)
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        print(f"{what:<20} p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms   max {ordered[-1] * 1e3:6.2f} ms")
        if what != "waiting: cancelled" and p99 > BOUND:
            sys.exit(f"p99 is above {BOUND * 1e3:g} ms")


if __name__ == "__main__":
    main()
