"""Jobs in the parallel lane, and what ran when."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.model.job import Priority
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.runner import JobRunner


@dataclass
class Journal:
    """What handlers did."""

    running: int = 0
    most: int = 0
    starts: list[tuple[str, Any, float]] = field(default_factory=list)
    """Id, payload and time of each start."""
    ends: Counter[str] = field(default_factory=Counter)
    """How often each job's handler ran to its end."""

    def sleeper(self, seconds: float) -> Callable:
        async def handler(payload: Any, ctx: JobService.Context) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            self.starts.append((ctx.job_id, payload, time.monotonic()))
            try:
                await asyncio.sleep(seconds)
                self.ends[ctx.job_id] += 1
            finally:
                self.running -= 1

        return handler

    @property
    def started(self) -> set[str]:
        return {job_id for job_id, _, _ in self.starts}

    def start_of(self, job_id: str) -> float:
        """When a job began first."""
        return min(at for each, _, at in self.starts if each == job_id)


async def results(jobs: JobService, ids: list[str], *, timeout: float = 60) -> list[Any]:
    """The results of many jobs, waited for together."""
    return await asyncio.gather(*(jobs.result(job_id, timeout=timeout) for job_id in ids))


async def submit(jobs: JobService, job_type: str, count: int, **options: Any) -> list[str]:
    """Many jobs, in batches as large as may be."""
    ids: list[str] = []
    for begin in range(0, count, 1000):
        ids += await jobs.submit(job_type, list(range(begin, min(begin + 1000, count))), **options)
    return ids


async def left_in(jobs: JobService, priority: str = "normal") -> int:
    """Jobs that wait, sleep or run in the parallel lane of a priority."""
    found = await live_partitions(jobs.connection, Names(jobs.config.namespace), (Priority(priority),))
    return sum(info.num_pending + info.num_ack_pending for info in found.values())


def tenants_of_partitions(count: int) -> dict[int, str]:
    """One tenant for each partition, as the server's transform hashes them: 32-bit FNV-1a."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        name = f"tenant-{number}"
        number += 1
        value = 2166136261
        for byte in name.encode():
            value = (value ^ byte) * 16777619 % 2**32
        found.setdefault(value % count, name)
    return found


def count_deliveries(monkeypatch: Any) -> Counter[str]:
    """The largest count of deliveries that each job's run began with."""
    counts: Counter[str] = Counter()
    run = JobRunner.run

    async def noted(self: JobRunner, one: JobRun) -> None:
        counts[one.job_id] = max(counts[one.job_id], one.delivery.attempt)
        await run(self, one)

    monkeypatch.setattr(JobRunner, "run", noted)
    return counts


@asynccontextmanager
async def taken_by_hand(
    connection: Connection, names: Names, priority: Priority, number: int
) -> AsyncIterator[Callable]:
    """A plain pull from one partition: gives a function that takes one message, and returns its reply subject."""
    inbox = connection.new_inbox()
    found: asyncio.Queue[bytes] = asyncio.Queue()
    sid = await connection.receive(f"{inbox}.*".encode(), lambda _s, reply, _h, _d: found.put_nowait(reply))
    stream = f"{names.namespace.upper()}_{priority.upper()}_PARALLEL"
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{priority}-parallel-{number}".encode()

    async def take() -> bytes:
        connection.post(subject, b'{"batch": 1, "expires": 5000000000}', reply=f"{inbox}.1".encode())
        return await asyncio.wait_for(found.get(), 5)

    yield take
    await connection.stop_receiving(sid)
