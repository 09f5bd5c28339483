"""A pause covers the parallel lane of its priority, and jobs that waited meanwhile run at once when it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.consumers import UNTIL_RESUMED
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

LOW = Priority.LOW
AT_ONCE = 2.0
"""Seconds from the end of a pause to the start of a job that waited, at most; half of one is the server's."""


class Recorder:
    """A handler's calls: which jobs began, and when."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.go_on = asyncio.Event()


@pytest.fixture
async def ran(jobs: JobService) -> AsyncIterator[Recorder]:
    """A worker that runs `note`, and `held` until it is told to go on."""
    recorder = Recorder()

    @jobs.handler("note")
    async def note(number: int) -> None:
        recorder.began[number] = time.monotonic()

    @jobs.handler("held")
    async def held(number: int) -> None:
        recorder.began[number] = time.monotonic()
        await recorder.go_on.wait()

    async with jobs.worker():
        yield recorder
        recorder.go_on.set()


async def pauses_of(connection: Connection, names: Names) -> set[datetime | None]:
    return {info.paused_until for info in (await live_partitions(connection, names, (LOW,))).values()}


async def test_jobs_of_a_paused_lane_wait_and_run_at_once_when_it_is_resumed(
    jobs: JobService, ran: Recorder, connection: Connection, names: Names
) -> None:
    await jobs.result(await jobs.submit("note", 0, priority="low"), timeout=10)  # so that requests stand on the server
    paused = await jobs.pause("low")
    assert (paused.until, paused.running) == (None, ())
    assert await pauses_of(connection, names) == {UNTIL_RESUMED}
    ids = [await jobs.submit("note", number, priority="low") for number in range(1, 9)]
    other = await jobs.submit("note", 100, priority="high")
    await jobs.result(other, timeout=10)
    assert set(ran.began) == {0, 100}
    resumed = time.monotonic()
    assert await jobs.resume("low")
    for job_id in ids:
        await jobs.result(job_id, timeout=10)
    assert max(ran.began[number] for number in range(1, 9)) - resumed < AT_ONCE
    assert await pauses_of(connection, names) == {None}
    assert not await jobs.resume("low")


async def test_jobs_of_a_paused_lane_run_at_once_when_its_pause_ends_by_itself(jobs: JobService, ran: Recorder) -> None:
    began = time.monotonic()
    await jobs.pause("low", 3)
    ids = await jobs.submit("note", list(range(20)), priority="low")
    for job_id in ids:
        await jobs.result(job_id, timeout=15)
    assert min(ran.began.values()) - began > 2.5
    assert max(ran.began.values()) - began < 3 + AT_ONCE


async def test_who_pauses_is_told_which_jobs_of_the_lane_go_on(jobs: JobService, ran: Recorder) -> None:
    ids = set(await jobs.submit("held", list(range(30)), priority="low"))
    await eventually(lambda: len(ran.began) == 30)
    began = time.monotonic()
    paused = await jobs.pause("low")
    assert time.monotonic() - began < 1
    assert set(paused.running) == ids
    waiting = await jobs.submit("held", 100, priority="low")
    ran.go_on.set()
    for job_id in ids:
        await jobs.result(job_id, timeout=10)
    assert (await jobs.pause("low")).running == ()
    assert 100 not in ran.began
    await jobs.resume("low")
    await jobs.result(waiting, timeout=10)


async def test_a_partition_that_is_created_later_is_paused_too(
    jobs: JobService, config: JobService.Config, connection: Connection, names: Names
) -> None:
    await jobs.pause("low")
    stream, gone = names.queue(Partition(LOW, 1).queue), Partition(LOW, 1).consumer
    await call(connection, f"CONSUMER.DELETE.{stream}.{gone}")
    more = config.model_copy(update={"partitions": 6})
    await TopologyReconciler(connection, names, more).apply()
    assert len(await live_partitions(connection, names, (LOW,))) == 6
    assert await pauses_of(connection, names) == {UNTIL_RESUMED}
    await jobs.resume("low")
    assert await pauses_of(connection, names) == {None}
