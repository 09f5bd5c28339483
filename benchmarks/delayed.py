"""Measure how late delayed jobs start, and what many waiting ones cost.

    python benchmarks/delayed.py [--jobs 10000] [--pending 100000]

The worker runs in a process of its own, with the ten shards of the default settings. So many jobs fall due within ten
seconds; then others are scheduled over the next hours, and a tenth of the first number falls due beside them. Lateness is
from a job's due time to its handler's start, by this machine's clock. Exits 1 where the p99 of the first is a second or
more, or a job starts early or not exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import uvloop

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.settings import load

BOUND = 1.0  # seconds of lateness, p99
WITHIN = 10.0
AHEAD = 8.0  # seconds from the first submit to the first due time: all are submitted by then
PRIORITIES = ["critical"] * 4 + ["high"] * 3 + ["normal"] * 2 + ["low"]


async def work(url: str, notes: str) -> None:
    """Run a worker whose handler notes how late it is."""
    jobs = JobService(JobService.Config(nats_url=url))
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @jobs.handler("late")
    async def late(due: float) -> None:
        os.write(file, struct.pack("d", time.time() - due))

    async with jobs, jobs.worker():
        print("ready", flush=True)
        await asyncio.Event().wait()


def noted(notes: Path) -> list[float]:
    return [value for (value,) in struct.iter_unpack("d", notes.read_bytes())] if notes.exists() else []


async def firing(jobs: JobService, notes: Path, count: int) -> tuple[list[float], float]:
    """Return the lateness of this many jobs, sorted, and the seconds that submitting them took."""
    before = len(noted(notes))
    begin = time.time() + AHEAD
    dues = [begin + WITHIN * number / count for number in range(count)]
    payloads = [
        JobService.Payload(
            type="late",
            payload=due,
            at=datetime.fromtimestamp(due, UTC),
            priority=PRIORITIES[number * 100 // count % 10],  # neighbours are queued together
        )
        for number, due in enumerate(dues)
    ]
    clock = time.perf_counter()
    ids = await jobs.submit_payloads(payloads)
    submitted = time.perf_counter() - clock
    if time.time() > begin:
        sys.exit("submitting took longer than the delay: use fewer --jobs")
    deadline = time.time() + AHEAD + WITHIN + 60
    while len(noted(notes)) - before < count and time.time() < deadline:  # noqa: ASYNC110 - another process writes them
        await asyncio.sleep(0.1)
    await jobs.results(ids, timeout=60)
    found = noted(notes)[before:]
    if len(found) != count:
        sys.exit(f"{len(found)} starts of {count} jobs")
    return sorted(found), submitted


async def one_by_one(jobs: JobService, count: int, **options: object) -> float:
    """Return how many jobs are submitted per second, one after the other."""
    clock = time.perf_counter()
    for _ in range(count):
        await jobs.submit("late", 0.0, **options)
    return count / (time.perf_counter() - clock)


async def many(jobs: JobService, count: int) -> float:
    """Return how many jobs are submitted per second in lists of 1,000, due in one to six hours."""
    clock = time.perf_counter()
    for start in range(0, count, 1000):
        soon = datetime.now(UTC) + timedelta(hours=1 + 5 * start / count)
        await jobs.submit("late", [0.0] * min(1000, count - start), at=soon)
    return count / (time.perf_counter() - clock)


async def restart(server: NatsServer, jobs: JobService, stop: str) -> float:
    """Return the seconds from the start of the server's process until its schedules answer."""
    await asyncio.to_thread(server.stop if stop == "stopped" else server.kill)
    clock = time.perf_counter()
    await asyncio.to_thread(server.start)
    await call(jobs.connection, "STREAM.INFO.JOBS_SCHEDULE", timeout=60)
    return time.perf_counter() - clock


def memory(server: NatsServer) -> str:
    held = psutil.Process(server.pid).memory_info().rss / 2**20
    return f"{held:.0f} MiB"


def say(what: str, found: list[float]) -> float:
    """Print quantiles, and return the p99."""
    p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
    print(f"{what:<46} p50 {p50:6.3f} s   p99 {p99:6.3f} s   least {found[0]:6.3f} s   most {found[-1]:6.3f} s")
    if found[0] < 0:
        sys.exit("a job started before it was due")
    return p99


async def measure(server: NatsServer, notes: Path, count: int, pending: int) -> None:
    await apply(server.url)
    command = [sys.executable, __file__, "--child", server.url, str(notes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220 - once, before the clock
        try:
            await asyncio.to_thread(child.stdout.readline)
            async with JobService(JobService.Config(nats_url=server.url)) as jobs:
                late, submitted = await firing(jobs, notes, count)
                p99 = say(f"{count} jobs due within {WITHIN:g} s:", late)
                print(f"submitted in lists of {count // 100}: {count / submitted:.0f} jobs/s")
                rate = await one_by_one(jobs, 2000, delay=36000)
                keyless = await one_by_one(jobs, 2000)
                print(f"one by one: {rate:.0f} delayed jobs/s, {keyless:.0f} jobs/s without a delay")
                print(f"the server holds {memory(server)} before {pending} more are scheduled,", end=" ", flush=True)
                rate = await many(jobs, pending)
                print(f"{memory(server)} after; in lists of 1000: {rate:.0f} jobs/s")
                beside, _ = await firing(jobs, notes, count // 10)
                say(f"{count // 10} more due within {WITHIN:g} s beside them:", beside)
                for stop in ("stopped", "killed"):
                    print(f"started after it was {stop}: {await restart(server, jobs, stop):.2f} s", flush=True)
                print(f"the server holds {memory(server)} then")
        finally:
            child.kill()
    if p99 >= BOUND:
        sys.exit(f"p99 is not under {BOUND:g} s")


async def apply(url: str) -> None:
    """Create the streams."""
    connection = Connection()
    await connection.open(url)
    await TopologyReconciler(connection, Names(), load()).apply()
    await connection.close()


def main() -> None:
    """Start the server and the worker, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        uvloop.run(work(*arguments.child))
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(NatsServer(folder / "nats"))
        uvloop.run(measure(server, folder / "notes", arguments.jobs, arguments.pending))


if __name__ == "__main__":
    main()
