"""A worker that is killed while its priority is paused: its job waits for the resume, and nobody dead-letters it."""

from collections.abc import Awaitable, Callable

import pytest
from app_processes import Apps

from facts import eventually
from jsjobs import JobService
from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.maintenance.sweep import Sweep
from jsjobs.model.times import parse_rfc3339


@pytest.mark.long
async def test_the_job_of_a_killed_worker_waits_for_the_resume(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    apps: Callable[[JobService.Config], Apps],
    connection: Connection,
) -> None:
    config = settings_of()
    await deploy(config)
    processes, names = apps(config), Names(config.namespace)
    worker = await processes.start()
    async with JobService(config) as jobs:
        recorder = DeadLetterRecorder(connection, names, StateStore(connection, names), jobs.dlq, result_ttl=3600)
        sweep = Sweep(connection, names, config, recorder)
        job_id = await jobs.submit("hang", 1, priority="low", entity="e")

        async def begun() -> bool:
            return len(processes.events("start")) == 1

        await eventually(begun)
        assert (await jobs.pause("low")).running == (job_id,)
        worker.kill()
        worker.wait()
        await processes.start()

        async def lease_is_over(times: int) -> bool:
            await sweep.once()
            info = await call(connection, f"CONSUMER.INFO.{names.stream('low')}.low-1x1-0")
            assert info["num_ack_pending"] == 1
            seconds = (parse_rfc3339(info["ts"]) - parse_rfc3339(info["delivered"]["last_active"])).total_seconds()
            return seconds > times * config.ack_wait + 1

        # Long enough for a sweep that took it for given up to see it twice.
        await eventually(lambda: lease_is_over(3))
        assert len(processes.events("start")) == 1
        assert await jobs.dlq.list() == []
        # Its worker is lost and nobody else was given it, yet its entry says that it runs.
        assert (await jobs.pause("low")).running == (job_id,)
        await jobs.resume("low")

        async def begun_again() -> bool:
            return [event["attempt"] for event in processes.events("start")] == [1, 2]

        await eventually(begun_again)
