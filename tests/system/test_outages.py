"""Postgres, routers and the NATS server itself go away in the middle of the work."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from app_processes import Apps
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    yield server
    server.remove()


async def quick_router(plain: Client, namespace: str) -> None:
    """A router that died gives its letters back after one second instead of thirty."""
    stream = f"{namespace.upper()}_DEAD"
    answer = await plain.request(f"$JS.API.CONSUMER.INFO.{stream}.router")
    config = json.loads(answer.data)["config"] | {"ack_wait": 10**9}
    body = json.dumps({"stream_name": stream, "config": config, "action": "update"}).encode()
    answer = await plain.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.router", body)
    assert json.loads(answer.data)["config"]["ack_wait"] == 10**9


async def all_failed(jobs: JobService, ids: list[str]) -> bool:
    for job_id in reversed(ids):
        if (await jobs.status(job_id)).status != "failed":
            return False
    return True


def register(jobs: JobService) -> None:
    @jobs.handler("dies")
    async def dies(payload: Any) -> None:
        raise JobService.Error.from_validation("it shall die")

    @jobs.handler("lives")
    async def lives(payload: int) -> int:
        return payload


async def test_postgres_away_loses_no_letter_and_blocks_no_job(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[..., Any],
    own_postgres: PostgresServer,
    plain: Client,
) -> None:
    async with Database(own_postgres.url) as database:
        await migrate(database)
    own_postgres.stop()
    config = settings_of(database_url=own_postgres.url)
    await deploy(config)
    async with JobService(config) as jobs:
        register(jobs)
        router = jobs.router()
        async with jobs.worker(), router:  # with Postgres down
            ids = [await jobs.submit("dies", 0, priority="critical")]

            async def is_in_trouble() -> bool:
                return "Postgres" in router.trouble

            await eventually(is_in_trouble)
            assert await jobs.result(await jobs.submit("lives", 1)) == 1
            own_postgres.start()
            await eventually(lambda: jobs.dlq.find(ids[0]))
            for number in range(100):
                ids.append(await jobs.submit("dies", number, priority="critical", entity=f"e{number % 7}"))
                if number == 30:
                    own_postgres.stop()
            await eventually(lambda: all_failed(jobs, ids))  # they die as ever
            await eventually(is_in_trouble)
            assert await jobs.result(await jobs.submit("lives", 2)) == 2
            own_postgres.start()

            async def all_stored() -> bool:
                return len(await jobs.dlq.list(limit=1000)) >= len(ids)

            await eventually(all_stored, within=40)
            await eventually(lambda: nothing_waits(plain, config.namespace))
            rows = await jobs.dlq.list(limit=1000)
            assert Counter(row.original_job_id for row in rows) == Counter(ids)
            assert {row.error_reason for row in rows} == {"Validation"}

            async def is_quiet() -> bool:
                return not router.trouble

            await eventually(is_quiet)


async def nothing_waits(plain: Client, namespace: str) -> bool:
    return (await plain.jetstream().stream_info(f"{namespace.upper()}_DEAD")).state.messages == 0


async def test_two_routers_of_which_one_is_killed_store_each_letter_once(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], apps: Callable[..., Apps], plain: Client
) -> None:
    config = settings_of()
    await deploy(config)
    await quick_router(plain, config.namespace)
    routers = apps(config)
    victim, _ = await asyncio.gather(routers.start("router"), routers.start("router"))
    async with JobService(config) as jobs:
        register(jobs)
        async with jobs.worker():
            ids = await jobs.submit("dies", list(range(100)), priority="critical")
            ids += await jobs.submit("dies", list(range(100)), priority="high")

            async def some_rows() -> bool:
                return len(await jobs.dlq.list(limit=20)) == 20

            await eventually(some_rows)
            victim.send_signal(signal.SIGKILL)

            async def all_rows() -> bool:
                return len(await jobs.dlq.list(limit=1000)) >= len(ids)

            await eventually(all_rows)
            await eventually(lambda: nothing_waits(plain, config.namespace))
        rows = await jobs.dlq.list(limit=1000)
    assert Counter(row.original_job_id for row in rows) == Counter(ids)


async def test_a_router_that_is_stopped_and_started_stores_each_letter_once(jobs: JobService, plain: Client) -> None:
    register(jobs)
    async with jobs.worker():
        ids = await jobs.submit("dies", list(range(100)), priority="critical")
        stored = 0
        for wanted in (1, 30, 60, 100):

            async def enough(wanted: int = wanted) -> bool:
                nonlocal stored
                stored = len(await jobs.dlq.list(limit=1000))
                return stored >= wanted

            async with jobs.router():
                # One that was in hand when a router stopped may come back only after the router's `ack_wait`, 30 s.
                await eventually(enough, within=60)
        await eventually(lambda: nothing_waits(plain, jobs.config.namespace))
        rows = await jobs.dlq.list(limit=1000)
    assert Counter(row.original_job_id for row in rows) == Counter(ids)


async def test_jobs_survive_a_killed_nats_server(  # noqa: C901 - a story told in one test
    settings_of: Callable[..., JobService.Config], database_url: str, tmp_path: Path
) -> None:
    runs: Counter[int] = Counter()
    with NatsServer(tmp_path / "nats") as server:
        config = settings_of(nats_url=server.url, ack_wait=1.5, timeout=1)
        connection = await connect(config)
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
        await connection.close()
        async with AsyncExitStack() as stack:
            jobs = await stack.enter_async_context(JobService(config))
            publisher = await stack.enter_async_context(JobService(config))

            @jobs.handler("count")
            async def count(payload: int) -> int:
                runs[payload] += 1
                await asyncio.sleep(0.005)
                return payload

            worker = await stack.enter_async_context(jobs.worker())
            acked: dict[int, str] = {}

            async def publish(number: int) -> None:
                while number not in acked:
                    try:
                        acked[number] = await publisher.submit(
                            "count", number, priority="critical", entity=f"e{number % 9}", dedupe_key=f"k{number}"
                        )
                    except JobService.Error as error:
                        if not error.is_transient:
                            raise

            async def publish_all() -> None:
                for number in range(300):
                    await publish(number)

            publishing = asyncio.ensure_future(publish_all())

            async def has_done(number: int) -> bool:
                return sum(runs.values()) >= number

            for number in (60, 160):
                await eventually(lambda number=number: has_done(number))
                server.kill()
                server.start()
            await asyncio.wait_for(publishing, 30)

            async def all_ended() -> bool:
                statuses = await asyncio.gather(*(jobs.status(job_id) for job_id in acked.values()))
                return all(status.status == "complete" for status in statuses)

            await eventually(all_ended, within=40)
            assert worker.ready
            assert len(set(acked.values())) == len(acked) == 300
            for number, job_id in acked.items():
                status = await jobs.status(job_id)
                assert [item.status for item in status.history].count("complete") == 1
                assert (status.result, runs[number] >= 1) == (number, True)
            assert await publisher.submit("count", 1000) not in acked.values()
            await eventually(lambda: is_drained(jobs, worker))


async def test_snoozes_survive_a_killed_nats_server(
    settings_of: Callable[..., JobService.Config], tmp_path: Path
) -> None:
    """One that a worker holds, and one that a stopped worker gave back, of which the server alone knows."""
    began: dict[str, list[float]] = {}
    with NatsServer(tmp_path / "nats") as server:
        config = settings_of(nats_url=server.url, ack_wait=1.5)
        connection = await connect(config)
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
        await connection.close()
        async with JobService(config) as jobs:

            @jobs.handler("sleepy")
            async def sleepy(payload: str) -> str:
                began.setdefault(payload, []).append(time.monotonic())
                if len(began[payload]) == 1:
                    raise JobService.Snooze(5)
                return payload

            async def sleeps(job_id: str) -> bool:
                return (await jobs.status(job_id)).snoozed_until is not None

            given_back = await jobs.submit("sleepy", "given back", priority="low")
            async with jobs.worker():
                await eventually(lambda: sleeps(given_back))
            async with jobs.worker() as worker:
                held = await jobs.submit("sleepy", "held", priority="high")
                await eventually(lambda: sleeps(held))
                server.kill()
                server.start()
                assert await jobs.results([given_back, held], timeout=40) == ["given back", "held"]
                await eventually(lambda: is_drained(jobs, worker))
            for job_id in (given_back, held):
                assert (await jobs.status(job_id)).attempts == 1
    assert {payload: len(times) for payload, times in began.items()} == {"given back": 2, "held": 2}
    assert min(times[1] - times[0] for times in began.values()) >= 5


async def is_drained(jobs: JobService, worker: Any) -> bool:
    return worker.running == 0
