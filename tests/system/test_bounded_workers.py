"""Workers at their bound while servers, workers and shards come and go."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from app_processes import Apps, Event, assert_in_turn, by_entity

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.worker.intake.intake import BOUNCES
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.runner import JobRunner

PRIORITIES = tuple(JobService.Priority)


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


async def apply(config: JobService.Config, *, wait: bool = True) -> None:
    connection = await connect(config)
    await TopologyReconciler(connection, Names(config.namespace), config).apply(wait=wait)
    await connection.close()


async def submit_all(jobs: JobService, entities: int, each: int, seconds: float) -> None:
    for n in range(each):
        await asyncio.gather(
            *(
                jobs.submit("step", {"n": n, "seconds": seconds}, entity=f"e{e}", priority=PRIORITIES[e % 4])
                for e in range(entities)
            )
        )


def most_at_once(events: list[Event]) -> int:
    """Handlers of one process that ran at the same time, at most."""
    running: Counter[int] = Counter()
    most = 0
    for event in events:
        if event["event"] in {"start", "end"}:
            running[event["pid"]] += 1 if event["event"] == "start" else -1
            most = max(most, running[event["pid"]])
    return most


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_the_server_dies_twice_and_a_worker_once(
    settings_of: Callable[..., JobService.Config], own_nats: NatsServer, apps: Callable[..., Apps]
) -> None:
    config = settings_of(nats_url=own_nats.url, ack_wait=4, concurrency=2)
    await apply(config)
    processes = apps(config)
    async with JobService(config) as jobs:
        await submit_all(jobs, 24, 25, 0.02)
        first, second = await processes.start(), await processes.start()
        await eventually(lambda: len(processes.events("end")) > 100, within=60)
        own_nats.kill()
        own_nats.start()
        await eventually(lambda: len(processes.events("end")) > 200, within=60)
        first.send_signal(signal.SIGKILL)
        first.wait()
        await processes.start()
        own_nats.stop()
        own_nats.start()
        await eventually(lambda: len(ended(processes)) == 24 * 25, within=100)
        events = processes.events()
        assert most_at_once([event for event in events if event["pid"] != first.pid]) <= 2
        for its_events in by_entity(events).values():
            assert_in_turn(its_events, killed=first.pid)
    assert second.poll() is None


def ended(processes: Apps) -> set[tuple[str, int]]:
    return {(event["entity"], event["n"]) for event in processes.events("end")}


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_shards_are_changed_under_workers_at_their_bound(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], apps: Callable[..., Apps]
) -> None:
    config = settings_of(ack_wait=10, concurrency=1)
    await deploy(config)
    processes = apps(config)
    async with JobService(config) as jobs:
        await submit_all(jobs, 16, 15, 0.01)
        for _ in range(2):
            await processes.start()
        for scale in (2, 1):
            await apply(settings_of(ack_wait=10, scale=scale))
        await eventually(lambda: len(ended(processes)) == 16 * 15, within=60)
    events = processes.events()
    assert most_at_once(events) == 1
    for its_events in by_entity(events).values():
        assert_in_turn(its_events)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_no_job_is_lost_on_the_way_to_a_worker_that_stops_listening(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """A job sent to a subscription that just ended would come back only after `ack_wait`, a minute here."""
    await deploy(settings_of(ack_wait=60))
    config = settings_of(ack_wait=60, concurrency=1)
    rng, naks, counts, running = random.Random(seed), 0, Counter[str](), Counter[str]()
    nak, run = Delivery.nak, JobRunner.run

    def counted(delivery: Delivery, delay: float = 0) -> None:
        nonlocal naks
        naks += 1
        nak(delivery, delay)

    async def noted(self: JobRunner, one: JobRun) -> None:
        counts[one.job_id] = max(counts[one.job_id], one.delivery.attempt)
        await run(self, one)

    monkeypatch.setattr(Delivery, "nak", counted)
    monkeypatch.setattr(JobRunner, "run", noted)

    def register(jobs: JobService, name: str) -> None:
        @jobs.handler("t")
        async def handler(payload: float) -> None:
            running[name] += 1
            assert running[name] == 1
            await asyncio.sleep(payload)
            running[name] -= 1

    async with JobService(config) as one, JobService(config) as two, JobService(config) as submitter:
        register(one, "one")
        register(two, "two")
        async with one.worker(), two.worker():
            begin, waits, count = time.monotonic(), [], 1200

            async def follow(number: int) -> None:
                submitted = time.monotonic()
                job_id = await submitter.submit(
                    "t", rng.choice((0, 0, 0.001, 0.015, 0.03)), priority=rng.choice(PRIORITIES), entity=f"e{number}"
                )
                await submitter.result(job_id, timeout=50)
                waits.append(time.monotonic() - submitted)

            following = []
            for number in range(count):
                following.append(asyncio.ensure_future(follow(number)))
                await asyncio.sleep(rng.expovariate(1 / 0.008))
            await asyncio.gather(*following)
            took = time.monotonic() - begin
    assert max(waits) < 30
    assert took < 50
    assert naks <= 5 * count  # a job that meets a full worker is given back after a hundredth of a second
    assert max(counts.values()) <= BOUNCES  # so none had to wait for longer and longer, either
