"""A harness is set up quickly, leaves nothing behind, and changes a service for the length of a block."""

import asyncio
import os
import time

import psutil
import pytest
from nats.aio.client import Client

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.testing import Harness


async def streams(connection: Connection) -> set[str]:
    return set((await call(connection, "STREAM.NAMES"))["streams"] or [])


async def test_a_namespace_is_made_quickly_and_leaves_nothing(nats_server: NatsServer, connection: Connection) -> None:
    before = await streams(connection)
    seconds, namespaces = [], set()
    for _ in range(5):
        began = time.perf_counter()
        async with Harness(nats_url=nats_server.url) as harness:
            made = await streams(connection) - before
            assert {name.split("_", 1)[1].upper() for name in made} >= {"CRITICAL", "HIGH", "NORMAL", "LOW", "DEAD"}
            namespaces.add(harness.config.namespace)
        seconds.append(time.perf_counter() - began)
        assert not await streams(connection) - before
    assert min(seconds) < 1.0
    assert len(namespaces) == 5


async def test_its_own_server_lives_as_long_as_it() -> None:
    before = set(psutil.Process().children())
    async with Harness() as harness:
        made = set(psutil.Process().children()) - before
        [server] = [process for process in made if process.name() == "nats-server"]
        folder = server.cwd()
        assert os.path.exists(folder)  # noqa: ASYNC240, PTH110 - a moment
        async with harness.service() as jobs:

            @jobs.handler("echo")
            async def echo(payload: int) -> int:
                return payload

            await jobs.submit("echo", 3)
            assert [status.result for status in await harness.run_all()] == [3]
    assert not any(process.is_running() for process in made)  # its guard neither
    assert not os.path.exists(folder)  # noqa: ASYNC240, PTH110


async def test_the_very_service_is_used_and_has_its_settings_back(harness: Harness) -> None:
    own = JobService.Config(nats_url="nats://127.0.0.1:9", namespace="own", retry=JobService.Retry(max_retries=7))
    jobs = JobService(own)

    @jobs.handler("outer")
    async def outer(_payload: object) -> None:
        await jobs.submit("inner")  # as a handler refers to its module's `jobs`

    @jobs.handler("inner")
    async def inner(_payload: object) -> str:
        return jobs.config.namespace

    for _ in range(2):
        async with harness.using(jobs) as used:
            assert used is jobs
            assert jobs.config.nats_url == harness.config.nats_url
            assert jobs.config.retry.max_retries == 7  # its handlers behave as ever
            await jobs.submit("outer")
            assert [status.result for status in await harness.run_all()] == [None, harness.config.namespace]
        assert jobs.config is own
    with pytest.raises(RuntimeError, match="mine"):
        async with harness.using(jobs):
            raise RuntimeError("mine")
    assert jobs.config is own
    with pytest.raises(JobService.Error, match="not connected"):
        await jobs.submit("outer")


async def test_settings_come_from_the_test_alone(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {
        "JSJOBS_NATS_URL": "nats://127.0.0.1:9",
        "NATS_URL": "nats://127.0.0.1:9",
        "JSJOBS_NATS_PASSWORD": "secret",
        "JSJOBS_NATS_CREDS": "/no/such/file",
        "DATABASE_URL": "postgresql://127.0.0.1:9/production",
        "JSJOBS_NAMESPACE": "production",
        "JSJOBS_SCALE": "16",
        "JSJOBS_ACK_WAIT": "not a number",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    retry = JobService.Retry(max_retries=0)
    async with Harness(nats_url=nats_server.url, retry=retry, ack_wait=7) as harness, harness.service() as jobs:
        assert jobs.config.namespace.startswith("test")
        assert jobs.config.database_url is None
        assert (jobs.config.retry, jobs.config.ack_wait, jobs.config.scale) == (retry, 7, 1)

        @jobs.handler("dies")
        async def dies(_payload: object) -> None:
            raise ValueError("no")

        await jobs.submit("dies")
        [status] = await harness.run_all(raise_failures=False)
        assert status.attempts == 1


async def test_queued_tells_what_was_submitted(harness: Harness, plain: Client) -> None:
    async with harness.service() as jobs:
        with jobs.request_context(tenant_id="acme", request_id="r-1"):
            first = await jobs.submit(
                "mail.send", {"to": "ada"}, priority="low", entity="customer 1", max_attempts=9, timeout=2.5
            )
        ids = await jobs.submit("mail.send", [1, [2]], priority="critical", duration="long")
        await plain.jetstream().publish(f"{harness.config.namespace}.high.x.raw.job", b"\xff no JSON")
        job, one, two, raw = await harness.queued()
        assert (job.job_id, job.type, job.payload, job.priority) == (first, "mail.send", {"to": "ada"}, "low")
        assert (job.entity, job.tenant, job.request_id, job.max_attempts) == ("customer 1", "acme", "r-1", 9)
        assert (job.timeout, job.duration, job.batch_id) == (2.5, None, None)
        assert [(item.job_id, item.payload, item.duration) for item in (one, two)] == [
            (ids[0], 1, "long"),
            (ids[1], [2], "long"),
        ]
        assert one.batch_id == two.batch_id is not None
        assert (raw.type, raw.payload, raw.entity, raw.max_attempts) == ("raw.job", b"\xff no JSON", None, None)
        assert await harness.queued("mail.send") == [job, one, two]
        assert await harness.queued("mail") == []
        with pytest.raises(JobService.Error, match="HandlerMissing"):
            await harness.run_all()
        assert await harness.queued() == []


def test_it_may_be_used_in_another_loop_than_it_was_opened_in(nats_server: NatsServer) -> None:
    harness = Harness(nats_url=nats_server.url)
    jobs = JobService(JobService.Config())

    @jobs.handler("echo")
    def echo(payload: int) -> int:
        return payload

    async def use() -> list[object]:
        async with harness.using(jobs):
            await jobs.submit("echo", 1)
            return [status.result for status in await harness.run_all()]

    asyncio.run(harness.open())
    assert [asyncio.run(use()), asyncio.run(use())] == [[1], [1]]
    asyncio.run(harness.close())
