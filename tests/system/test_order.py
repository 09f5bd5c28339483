"""Order and exclusion per entity, through failures and a worker's death; and which priority comes first."""

import asyncio
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

from app_processes import Apps, assert_in_turn, by_entity

from facts import eventually
from jsjobs import JobService

ENTITIES = 50
EACH = 20
QUICK = JobService.Retry(initial=0.005)


def payload(entity: int, number: int) -> dict[str, int]:
    """A third of the jobs fails once or twice."""
    index = entity * EACH + number
    return {"n": number, "fails": 1 + index % 2 if index % 3 == 0 else 0}


async def submit_all(jobs: JobService, slow: tuple[int, int] | None = None) -> list[str]:
    ids: list[str] = []
    for number in range(EACH):
        for entity in range(ENTITIES):
            body: dict[str, Any] = payload(entity, number)
            if slow == (entity, number):
                body["seconds"] = 1.2
            ids.append(await jobs.submit("step", body, entity=f"e{entity}", priority="critical"))
    return ids


async def all_complete(jobs: JobService, ids: list[str]) -> bool:
    # One after the other, the last first: looking must not keep the workers from working.
    for job_id in reversed(ids):
        if (await jobs.status(job_id)).status != "complete":
            return False
    return True


async def test_a_thousand_jobs_run_in_order_and_one_at_a_time_per_entity(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any]
) -> None:
    config = settings_of(retry=QUICK, ack_wait=2)
    await deploy(config)
    events: list[dict[str, Any]] = []

    def note(event: str, n: int, ctx: JobService.Context) -> None:
        at = time.monotonic()
        events.append(
            {
                "event": event,
                "n": n,
                "at": at,
                "job": ctx.job_id,
                "attempt": ctx.attempt,
                "entity": ctx.entity,
                "pid": 0,
            }
        )

    async with JobService(config) as jobs:

        @jobs.handler("step")
        async def step(payload: dict[str, int], ctx: JobService.Context) -> None:
            note("start", payload["n"], ctx)
            try:
                await asyncio.sleep(0.001)
                if ctx.attempt <= payload["fails"]:
                    raise RuntimeError("not yet")
            finally:
                note("end", payload["n"], ctx)

        async with jobs.worker():
            ids = await submit_all(jobs)
            await jobs.result(ids[-1])
            await eventually(lambda: all_complete(jobs, ids), within=60)
        attempts = {status.job_id: status.attempts for status in [await jobs.status(job_id) for job_id in ids]}
    entities = by_entity(events)
    assert len(entities) == ENTITIES
    for entity, seen in entities.items():
        assert_in_turn(seen)
        assert len({event["job"] for event in seen}) == EACH, entity
    expected = [1 + payload(entity, number)["fails"] for number in range(EACH) for entity in range(ENTITIES)]
    assert [attempts[job_id] for job_id in ids] == expected


async def test_order_survives_a_killed_worker_process(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], apps: Callable[..., Apps]
) -> None:
    config = settings_of(retry=QUICK, ack_wait=2)
    await deploy(config)
    workers = apps(config)
    first, second = await asyncio.gather(workers.start(), workers.start())
    async with JobService(config) as jobs:
        ids = await submit_all(jobs, slow=(7, 9))

        async def slow_one() -> list[dict[str, Any]]:
            return [e for e in workers.events("start") if (e["entity"], e["n"], e["attempt"]) == ("e7", 9, 1)]

        [slow] = await eventually(slow_one)
        victim = first if first.pid == slow["pid"] else second
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        await eventually(lambda: all_complete(jobs, ids), within=60)
        status = await jobs.status(slow["job"])
    assert status.attempts >= 2
    assert "the worker was lost" in next(item.error for item in status.history if item.error)
    pids = {event["pid"] for event in workers.events("start")}
    assert pids == {first.pid, second.pid}
    events = by_entity(workers.events())
    assert len(events) == ENTITIES
    for seen in events.values():
        assert_in_turn(seen, killed=victim.pid)
        assert len({event["job"] for event in seen}) == EACH


async def test_critical_jobs_finish_well_before_low_ones(jobs: JobService) -> None:
    @jobs.handler("mixed")
    async def mixed(payload: int) -> None:
        await asyncio.sleep(0.003)

    priorities = ["low", "normal", "high", "critical"]
    ids = {priority: await jobs.submit("mixed", list(range(150)), priority=priority) for priority in priorities}
    async with jobs.worker():
        every_id = [job_id for priority in reversed(priorities) for job_id in ids[priority]]
        await eventually(lambda: all_complete(jobs, every_id), within=60)
    ends = {}
    for some in ids.values():
        for job_id in some:
            last = (await jobs.status(job_id)).history[-1]
            assert last.status == "complete"
            ends[job_id] = last.timestamp
    position = {job_id: place for place, job_id in enumerate(sorted(ends, key=lambda job_id: ends[job_id]))}
    medians = [statistics.median(position[job_id] for job_id in ids[priority]) for priority in reversed(priorities)]
    assert medians == sorted(medians)
    assert medians[0] * 1.8 < medians[-1], medians
