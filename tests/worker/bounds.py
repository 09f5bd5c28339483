"""Jobs in many shards, and what ran when, for tests of a worker's bound."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.runner import JobRunner

PRIORITIES = tuple(JobService.Priority)


@dataclass
class Journal:
    """What handlers did; `attempts` of deliveries are noted by `watch_deliveries`."""

    running: int = 0
    most: int = 0
    begun: list[tuple[str, int, float]] = field(default_factory=list)
    """Consumer-like name of the shard, the payload, and when."""

    def begin(self, payload: int, ctx: JobService.Context) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.append((f"{ctx.priority}-{ctx.shard}", payload, time.monotonic()))

    def end(self) -> None:
        self.running -= 1

    @property
    def shards(self) -> Counter[str]:
        return Counter(shard for shard, _, _ in self.begun)


def sleeper(journal: Journal, seconds: float) -> Callable:
    async def handler(payload: int, ctx: JobService.Context) -> None:
        journal.begin(payload, ctx)
        try:
            await asyncio.sleep(seconds)
        finally:
            journal.end()

    return handler


async def fill(jobs: JobService, job_type: str, count: int, **options: object) -> list[str]:
    """Spread jobs over the shards of every priority, by turns."""
    return [
        await jobs.submit(job_type, number, priority=priority, **options)
        for number in range(count)
        for priority in PRIORITIES
    ]


async def fill_each_shard(jobs: JobService, job_type: str, each: int) -> list[str]:
    """So many jobs for every shard, critical ones last."""
    ids = []
    for priority in reversed(PRIORITIES):
        shards = jobs.config.shards(priority)
        found: dict[str, str] = {}
        number = 0
        while len(found) < shards:
            entity = f"e{number}"
            number += 1
            before = await eventually(partial(_counted, jobs, len(ids)))
            job_id = await jobs.submit(job_type, 0, priority=priority, entity=entity)
            shard = await eventually(partial(_grown, jobs, before))
            if shard in found:
                await jobs.cancel(job_id)
                continue
            found[shard] = entity
            ids.append(job_id)
            ids += [await jobs.submit(job_type, n, priority=priority, entity=entity) for n in range(1, each)]
    return ids


async def start_in_each_shard(jobs: JobService, job_type: str) -> list[str]:
    """At least one job for each shard, while workers run."""
    observer, ids = Observer(jobs.connection, Names(jobs.config.namespace)), []
    for priority in PRIORITIES:
        for number in range(60):
            look = await observer.look(0)
            shards = next(each for each in look.priorities if each.priority is priority).shards
            if all(shard.running or shard.waiting for shard in shards):
                break
            ids.append(await jobs.submit(job_type, 0, priority=priority, entity=f"e{number}", duration="long"))
    return ids


async def pending(jobs: JobService) -> dict[str, int]:
    """Jobs that wait in each shard, before any worker runs."""
    names = Names(jobs.config.namespace)
    found = {}
    for priority in PRIORITIES:
        async for info in list_consumers(jobs.connection, names.stream(priority)):
            found[info.name] = info.num_pending
    return found


def watch_deliveries(monkeypatch: object) -> dict[str, int]:
    """The largest count of deliveries that each job began with."""
    counts: dict[str, int] = {}
    run = JobRunner.run

    async def noted(self: JobRunner, one: JobRun) -> None:
        counts[one.job_id] = max(counts.get(one.job_id, 0), one.delivery.attempt)
        await run(self, one)

    monkeypatch.setattr(JobRunner, "run", noted)  # type: ignore[attr-defined]
    return counts


async def _counted(jobs: JobService, count: int) -> dict[str, int] | None:
    """What waits in each shard, once consumers have counted all jobs: they do so a moment after the receipt."""
    found = await pending(jobs)
    return found if sum(found.values()) == count else None


async def _grown(jobs: JobService, before: dict[str, int]) -> str | None:
    after = await pending(jobs)
    return next((name for name in after if after[name] > before[name]), None)
