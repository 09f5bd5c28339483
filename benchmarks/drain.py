"""How fast queued no-op jobs are worked off, beside a bare nats-py loop that does the same writes, in one run.

    python benchmarks/drain.py [--jobs 20000] [--rounds 3]
    python benchmarks/drain.py --jobs 10000 --against 200000 --rounds 5   # is the rate flat?

`bare` subscribes to the same shards with plain nats-py and, for each message, writes a first entry (compare-and-set),
then a second one, then acks: no history, no fencing, no validation, no handler. `jsjobs` is a worker process as users
start it. Both run in a process of their own, on uvloop, against the same server, which is filled anew for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import statistics
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
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.queue import JobQueue
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.settings import load

SHARDS = {"critical": 4, "high": 3, "normal": 2, "low": 1}
BODY = b'{"n":1}'


async def fill(url: str, namespace: str, jobs: int) -> None:
    """Queue the jobs, as many per shard in every priority."""
    connection = Connection()
    await connection.open(url)
    config = load(nats_url=url, namespace=namespace)
    await Topology(connection, Names(namespace), config).apply()
    queue = JobQueue(connection, Names(namespace))
    for priority, shards in SHARDS.items():
        left = jobs * shards // 10
        while left:
            batch = min(left, 1000)
            await queue.publish_batch([Outgoing(queue.subject(priority, None, "noop"), BODY) for _ in range(batch)])
            left -= batch
    await connection.close()


async def bare(url: str, namespace: str, jobs: int) -> float:
    """The floor: nats-py's public API, one reply inbox and a table of futures (its fastest way to await acks)."""
    connection = await nats.connect(url)
    waiting: dict[str, asyncio.Future[bytes]] = {}
    inbox = connection.new_inbox()
    done, finished, number = 0, asyncio.Event(), 0

    async def on_ack(message: nats.aio.msg.Msg) -> None:
        waiting.pop(message.subject).set_result(message.data)

    async def write(key: str, body: bytes, expected: int) -> int:
        nonlocal number
        number += 1
        reply = f"{inbox}.{number}"
        future = waiting[reply] = asyncio.get_running_loop().create_future()
        await connection.publish(key, body, reply=reply, headers={"Nats-Expected-Last-Subject-Sequence": str(expected)})
        return json.loads(await future)["seq"]

    async def on_job(message: nats.aio.msg.Msg) -> None:
        nonlocal done
        sequence = message.metadata.sequence.stream
        key = f"$KV.{namespace}.{message.subject.split('.')[2]}-{sequence}"
        revision = await write(key, b'{"status":"processing","attempts":1}', 0)
        await write(key, b'{"status":"complete","attempts":1}', revision)
        await message.ack()
        done += 1
        if done == jobs:
            finished.set()

    await connection.subscribe(f"{inbox}.*", cb=on_ack)
    started = time.perf_counter()
    for priority, shards in SHARDS.items():
        for shard in range(shards):
            subject = f"{namespace}.deliver.{priority}.1x{shards}.{shard}"
            await connection.subscribe(subject, queue="workers", cb=on_job)
    await finished.wait()
    took = time.perf_counter() - started
    await connection.drain()
    return jobs / took


async def jsjobs(url: str, namespace: str, jobs: int) -> float:
    """A worker with a no-op handler."""
    service = JobService(JobService.Config(nats_url=url, namespace=namespace))
    done, finished = 0, asyncio.Event()

    @service.handler("noop")
    async def noop(payload: dict[str, int]) -> dict[str, int]:
        nonlocal done
        done += 1
        if done == jobs:
            finished.set()
        return payload

    async with service:
        started = time.perf_counter()
        async with service.worker():
            await finished.wait()
            took = time.perf_counter() - started
    return jobs / took


def measure(which: str, url: str, namespace: str, jobs: int) -> float:
    """One drain in a process of its own, in jobs per second."""
    uvloop.run(fill(url, namespace, jobs))
    command = [sys.executable, __file__, "--child", which, url, namespace, str(jobs)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Alternate the two and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=int, help="compare jsjobs with itself at this number of jobs instead")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        which, url, namespace, jobs = arguments.child
        print(uvloop.run({"bare": bare, "jsjobs": jsjobs}[which](url, namespace, int(jobs))))
        return
    sides = [("bare", arguments.jobs), ("jsjobs", arguments.jobs)]
    if arguments.against:
        sides = [("jsjobs", arguments.jobs), ("jsjobs", arguments.against)]
    rates: list[list[float]] = [[], []]
    for number in range(arguments.rounds):
        for (which, jobs), found in zip(sides, rates, strict=True):
            home = Path(tempfile.mkdtemp())
            with NatsServer(home) as server:
                found.append(measure(which, server.url, f"b{number}", jobs))
            shutil.rmtree(home)
            print(f"round {number + 1} {which:7} {jobs:9,} jobs {found[-1]:8,.0f}/s", flush=True)
    first, second = (statistics.median(found) for found in rates)
    print(f"medians of {arguments.rounds}, Python {platform.python_version()}:")
    for (which, jobs), median in zip(sides, (first, second), strict=True):
        print(f"{which:7} {jobs:9,} jobs {median:8,.0f}/s")
    print(f"ratio {second / first:.2f}")


if __name__ == "__main__":
    main()
