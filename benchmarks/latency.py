"""How long an idle worker takes to start a job, and its submitter to have the result, across processes.

    python benchmarks/latency.py [--jobs 2000]

The worker runs in a process of its own. One job at a time is submitted, and its result awaited, so that nothing queues.
`raw` is the floor: a message through the same stream and shard to a bare nats-py subscriber, published to callback.
Both clocks are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nats
import uvloop

from jsjobs import JobService
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.settings import load


async def work(url: str) -> None:
    """A worker whose handler says when it was called."""
    jobs = JobService(JobService.Config(nats_url=url))

    @jobs.handler("now")
    async def now(payload: float) -> float:
        return time.time() - payload

    async with jobs, jobs.worker():
        print("ready", flush=True)
        await asyncio.Event().wait()


async def raw_work(url: str) -> None:
    """A bare subscriber of the same kind of shard, which answers with the age of each message."""
    connection = await nats.connect(url)

    async def on_job(message: nats.aio.msg.Msg) -> None:
        age = time.time() - json.loads(message.data)
        await message.ack()
        await connection.publish("age", str(age).encode())

    for shard in range(2):
        await connection.subscribe(f"raw.deliver.normal.1x2.{shard}", queue="workers", cb=on_job)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def measure(url: str, jobs: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds: raw publish to callback, submit to start, submit to result."""
    raw, starts, results = [], [], []
    connection = await nats.connect(url)
    ages = await connection.subscribe("age")
    stream = connection.jetstream()
    async with JobService(JobService.Config(nats_url=url)) as service:
        for number in range(jobs):
            await stream.publish(f"raw.normal.e{number}.now", json.dumps(time.time()).encode())
            raw.append(float((await ages.next_msg()).data))
            begin = time.time()
            job_id = await service.submit("now", begin)
            starts.append(await service.result(job_id))
            results.append(time.time() - begin)
    await connection.close()
    return raw, starts, results


def quantiles(seconds: list[float]) -> str:
    """p50 and p99 in milliseconds; the first tenth warms up."""
    found = sorted(seconds[len(seconds) // 10 :])
    return f"p50 {found[len(found) // 2] * 1e3:6.2f} ms   p99 {found[int(len(found) * 0.99)] * 1e3:6.2f} ms"


async def apply(url: str) -> None:
    """Streams for both."""
    connection = Connection()
    await connection.open(url)
    for namespace in ("jobs", "raw"):
        await Topology(connection, Names(namespace), load(namespace=namespace)).apply()
    await connection.close()


def main() -> None:
    """Start the server and both workers, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        uvloop.run({"jsjobs": work, "raw": raw_work}[arguments.child[0]](arguments.child[1]))
        return
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(NatsServer(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        uvloop.run(apply(server.url))
        for which in ("raw", "jsjobs"):
            command = [sys.executable, __file__, "--child", which, server.url]
            child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(child.kill)
            child.stdout.readline()
        raw, starts, results = uvloop.run(measure(server.url, arguments.jobs))
    print(f"{arguments.jobs} jobs, one at a time, across processes:")
    print(f"raw publish to callback  {quantiles(raw)}")
    print(f"submit to handler start  {quantiles(starts)}")
    print(f"submit to result         {quantiles(results)}")


if __name__ == "__main__":
    main()
