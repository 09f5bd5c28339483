"""A real server, a worker that is router and service too, and strangers who send whatever they like."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import hostile_traffic
import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection


@pytest.mark.long
async def test_hostile_traffic_costs_good_jobs_nothing(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    tmp_path: Path,
    seed: int,
) -> None:
    config = settings_of(ack_wait=2)
    await deploy(config)
    report = await hostile_traffic.flood(config, seed=seed, messages=1000, folder=tmp_path)
    assert report.wrong == []
    assert report.complete == report.good == 100
    assert len(report.sent) == 12
    assert report.letters


async def test_messages_on_deliver_subjects_are_dropped_and_answered_to_nobody(
    jobs: JobService, plain: Client, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    namespace, heard = jobs.config.namespace, []

    async def hear(message: object) -> None:
        heard.append(message)

    await plain.subscribe("answers.>", cb=hear)
    replies = ("", "answers.x", "answers.c.d.1.2.3.4.5", f"{namespace}.normal.e.echo.2.3.4.5.6")
    async with jobs.worker() as worker, jobs.router() as router:
        await eventually(lambda: worker.ready and not router.why_not_ready)
        places = ("normal.1x2.0", "normal.1x2.1", "low.1x1.0", "dead")

        async def are_dropped() -> bool:
            # Again, until each was heard: a worker that subscribes anew misses what comes in between.
            for reply in replies:
                for place in places:
                    await plain.publish(f"{namespace}.deliver.{place}", b"1", reply=reply)
            await plain.flush()
            told = caplog.text.count("dropped, since no consumer sent it")
            return told >= len(replies) * len(places)

        await eventually(are_dropped)
        ids = [await jobs.submit("echo", n, entity=f"e{n}", priority="normal") for n in range(10)]
        assert await jobs.results(ids) == list(range(10))
        assert worker.ready
    assert heard == []
    assert [record for record in caplog.records if record.exc_info] == []
    assert await jobs.dlq.list() == []


async def test_a_bounded_worker_drops_them_too(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    plain: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = settings_of(concurrency=2)
    await deploy(config)
    async with JobService(config) as jobs:
        jobs.register_handler("echo", lambda payload: payload)
        async with jobs.worker():
            before = len(caplog.records)
            for reply in ("", "a.b.c.d.1.2.3.4.5"):
                await plain.publish(f"{config.namespace}.deliver.low.1x1.0", b"1", reply=reply)
            await eventually(lambda: caplog.text.count("dropped, since no consumer sent it") >= 1)
            ids = [await jobs.submit("echo", n, priority="low") for n in range(5)]
            assert await jobs.results(ids) == list(range(5))
    assert [record for record in caplog.records[before:] if record.exc_info] == []
