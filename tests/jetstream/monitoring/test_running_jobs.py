"""What a look sees of the jobs that workers have, on a real server."""

from datetime import timedelta
from typing import Any

import pytest
from busy_shards import LISTED, held, holding, of
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.job import Priority, Status
from jsjobs.settings import Config


@pytest.fixture
def names(config: Config) -> Names:
    return Names(config.namespace)


@pytest.fixture
def observer(connection: Connection, names: Names) -> Observer:
    return Observer(connection, names)


async def test_a_job_between_two_attempts_says_when_the_next_one_is(jobs: JobService, observer: Observer) -> None:
    @jobs.handler("flaky", retry=JobService.Retry(initial=30, max_backoff=60))
    async def fail(payload: Any) -> None:
        raise ValueError("not now")

    job_id = await jobs.submit("flaky", 1, priority="high", entity="e")
    async with jobs.worker():

        async def waits() -> Any:
            running = (await observer.look(LISTED)).running
            return running[0] if running and running[0].next_attempt_at else None

        job = await eventually(waits)
    assert (job.job_id, job.status, job.attempt) == (job_id, Status.QUEUED, 1)
    assert job.next_attempt_at - job.since > timedelta(seconds=20)


async def test_a_job_that_snoozes_says_so(jobs: JobService, observer: Observer) -> None:
    @jobs.handler("sleepy")
    async def snooze(payload: Any) -> None:
        raise JobService.Snooze(60)

    job_id = await jobs.submit("sleepy", 1, priority="high", entity="e")
    async with jobs.worker():

        async def waits() -> Any:
            running = (await observer.look(LISTED)).running
            return running[0] if running and running[0].snoozed_until else None

        job = await eventually(waits)
    assert (job.job_id, job.status, job.attempt) == (job_id, Status.QUEUED, 0)
    assert job.next_attempt_at == job.snoozed_until == job.since + timedelta(seconds=60)


async def test_a_delivery_that_is_repeated_counts_as_redelivered(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    async with holding(connection, names, Shard(Priority.LOW, Generation(1, 1), 0)) as deliveries:
        job_id = await jobs.submit("t", 1, priority="low", entity="e")
        await eventually(lambda: len(deliveries) == 1)
        now = await observer.look(LISTED)
        assert of(now, "low").redelivered == 0
        # Nobody wrote of it yet: its message tells.
        assert [(job.job_id, job.status, job.type, job.entity) for job in now.running] == [
            (job_id, Status.QUEUED, "t", "e")
        ]
        connection.post(deliveries[0], b"-NAK")
        await eventually(lambda: len(deliveries) == 2)
        assert of(await observer.look(LISTED), "low").redelivered == 1


async def test_a_job_that_carries_its_id_is_told_by_it(
    jobs: JobService, observer: Observer, connection: Connection, names: Names
) -> None:
    async with held(jobs):
        subject = names.submit(Priority.LOW, "e", "held").encode()
        await Schedules(connection, names).hand_over(subject, {"Jsjobs-Id": "replay-1-x"}, b"1")

        async def running() -> Any:
            return [job for job in (await observer.look(LISTED)).running if job.status is Status.PROCESSING]

        assert [(job.job_id, job.attempt) for job in await eventually(running)] == [("replay-1-x", 1)]


@pytest.mark.parametrize("value", [b"no JSON", b'{"job_id": 7}', b""])
async def test_an_entry_that_a_stranger_wrote_hides_no_busy_shard(
    jobs: JobService, observer: Observer, connection: Connection, names: Names, plain: Client, value: bytes
) -> None:
    async with holding(connection, names, Shard(Priority.LOW, Generation(1, 1), 0)) as deliveries:
        job_id = await jobs.submit("t", 1, priority="low", entity="e")
        await (await plain.jetstream().key_value(names.bucket)).put(str(job_id), value)
        await eventually(lambda: deliveries)
        now = await observer.look(LISTED)
        assert of(now, "low").running == 1
        # An empty one is as deleted: the job is known by its message.
        assert [job.job_id for job in now.running] == [job_id]
