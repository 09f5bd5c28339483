"""Workers and servers that die, stop or come back while many jobs of the parallel lane run."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from lane_runs import Journal, left_in, results, submit, taken_by_hand, tenants_of_partitions

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler


async def test_the_jobs_of_a_killed_worker_all_come_back_and_end_once(
    service: Callable, settings_of: Callable, deploy: Callable, workers: Callable
) -> None:
    ack_wait = 6
    config = settings_of(ack_wait=ack_wait, concurrency=200)
    await deploy(config)
    processes = workers(config)
    async with service(ack_wait=ack_wait) as jobs:
        first = await processes.start()
        ids = await submit_seconds(jobs, 200, 60)
        await eventually(lambda: len(processes.events("start")) == 200, within=30)
        await processes.start()
        first.send_signal(signal.SIGKILL)
        first.wait()
        begin = time.monotonic()
        attempts = await results(jobs, ids, timeout=60)
        took = time.monotonic() - begin
        assert set(attempts) == {2}
        assert Counter(one["job"] for one in processes.events("end")) == dict.fromkeys(ids, 1)
        assert Counter(one["job"] for one in processes.events("start")) == dict.fromkeys(ids, 2)
        for status in await asyncio.gather(*map(jobs.status, ids[:50])):
            assert [item.status for item in status.history] == ["processing", "queued", "processing", "complete"]
    assert took < ack_wait + 4, "they come back after one ack_wait, not two"


async def submit_seconds(jobs: JobService, count: int, seconds: float, **options: Any) -> list[str]:
    return list(await jobs.submit("sleep", [seconds] * count, **options))


async def test_poison_ends_by_its_attempts(service: Callable, config: JobService.Config, workers: Callable) -> None:
    processes = workers(config)
    async with service() as jobs, jobs.router():
        poison = await jobs.submit("poison", 1, max_attempts=2)
        for _ in range(2):
            process = processes.start_soon()
            await eventually(lambda process=process: process.poll() == 9, within=30)
        await processes.start()
        with pytest.raises(JobService.Error, match="the worker was lost") as caught:
            await jobs.result(poison, timeout=30)
        assert caught.value.reason == "MaxRetries"
        letter = await eventually(lambda: jobs.dlq.find(poison))
        assert letter.attempts == 2
        assert len(processes.events("start")) == 2
        assert await jobs.result((await submit_seconds(jobs, 1, 0))[0]) == 1


async def test_a_stop_with_hundreds_of_running_jobs_gives_them_all_back(service: Callable) -> None:
    journal, done = Journal(), Journal()
    async with service(concurrency=300, grace=0.3) as stopping, service(concurrency=300) as other:
        stopping.register_handler("t", journal.sleeper(60))
        other.register_handler("t", done.sleeper(0.01))
        worker = stopping.worker()
        await worker.start()
        ids = await submit(stopping, "t", 300)
        await eventually(lambda: journal.running == 300)
        begin = time.monotonic()
        await worker.stop()
        assert time.monotonic() - begin < 6
        assert journal.running == 0
        async with other.worker():
            begin = time.monotonic()
            await results(other, ids)
            assert time.monotonic() - begin < 1.9, "they did not wait for ack_wait"
        assert done.ends == dict.fromkeys(ids, 1)
        status = await other.status(ids[7])
        assert status.attempts == 1, "a release burns no attempt"
        assert [item.status for item in status.history] == ["processing", "queued", "processing", "complete"]


async def test_running_jobs_end_within_the_grace_time(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=300, grace=10) as jobs:
        jobs.register_handler("t", journal.sleeper(1))
        async with jobs.worker():
            ids = await submit(jobs, "t", 200)
            await eventually(lambda: journal.running == 200)
        assert journal.ends == dict.fromkeys(ids, 1)
        await eventually(lambda: is_empty(jobs))


async def is_empty(jobs: JobService) -> bool:
    return await left_in(jobs) == 0


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_jobs_run_on_while_the_server_is_away(settings_of: Callable, own_server: NatsServer, how: str) -> None:
    config = settings_of(nats_url=own_server.url, ack_wait=10, concurrency=100)
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
    journal = Journal()
    async with JobService(config) as jobs:
        jobs.register_handler("t", journal.sleeper(2))
        async with jobs.worker():
            ids = await submit(jobs, "t", 250)
            await eventually(lambda: journal.running == 100)
            getattr(own_server, how)()
            own_server.start()
            await results(jobs, ids, timeout=60)
            more = await submit(jobs, "t", 10)
            begin = time.monotonic()
            await results(jobs, more, timeout=60)
            assert time.monotonic() - begin < 8
            await eventually(lambda: is_empty(jobs), within=30)
    assert set(journal.ends) == {*ids, *more}
    assert sum(journal.ends.values()) <= 262, "what ran when the server went goes on, but for what it had not begun"


async def test_a_job_given_back_too_often_is_dead_and_one_given_back_often_is_not(
    jobs: JobService, namespace: str
) -> None:
    names, tenants = Names(namespace), tenants_of_partitions(4)
    jobs.register_handler("t", lambda payload: payload)
    ids = []
    for number, count in enumerate((900, 1001)):
        with jobs.request_context(tenant_id=tenants[number]):
            ids.append(await jobs.submit("t", number))
        async with taken_by_hand(jobs.connection, names, JobService.Priority.NORMAL, number) as take:
            for _ in range(count):
                jobs.connection.post(await take(), b"-NAK")
    async with jobs.worker(), jobs.router():
        assert await jobs.result(ids[0]) == 0
        with pytest.raises(JobService.Error, match="given back 1,000 times") as caught:
            await jobs.result(ids[1])
        assert caught.value.reason == "RunnerUnavailable"
        letter = await eventually(lambda: jobs.dlq.find(ids[1]))
        assert (letter.attempts, letter.payload) == (0, b"1")


async def test_a_consumer_that_is_created_again_is_worked_again(jobs: JobService, config: JobService.Config) -> None:
    names = Names(config.namespace)
    stream = f"{config.namespace.upper()}_NORMAL_PARALLEL"
    jobs.register_handler("t", lambda payload: payload)
    async with jobs.worker() as worker:
        assert await jobs.result(await jobs.submit("t", 1)) == 1
        for number in range(4):
            await jobs.connection.ask(f"$JS.API.CONSUMER.DELETE.{stream}.normal-parallel-{number}".encode())
        job_id = await jobs.submit("t", 2)
        await TopologyReconciler(jobs.connection, names, config).apply()
        begin = time.monotonic()
        assert await jobs.result(job_id) == 2
        assert time.monotonic() - begin < 5
        await eventually(lambda: worker.ready)
