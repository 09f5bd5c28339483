"""A router ends when it is told to, whatever it waits for."""

import asyncio

from jsjobs import JobService
from jsjobs.dead_letters import router as router_module
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.postgres.dead_letters import DeadLetters


async def test_a_router_stops_while_its_server_is_away(settings_of, tmp_path, monkeypatch) -> None:
    stored = asyncio.Event()
    monkeypatch.setattr(router_module, "_LAST_WORD", 1.0, raising=False)
    with NatsServer(tmp_path) as server:
        jobs = JobService(settings_of(nats_url=server.url))

        @jobs.handler("dies")
        async def dies(payload: object) -> None:
            raise JobService.Error("Validation", "dead")

        store = DeadLetters.store

        async def storing(*args) -> bool:
            new = await store(*args)
            server.kill()
            stored.set()
            return new

        monkeypatch.setattr(DeadLetters, "store", storing)
        async with jobs:
            await Topology(jobs.connection, Names(jobs.config.namespace), jobs.config).apply()
            router = jobs.router()
            await router.start()
            async with jobs.worker():
                await jobs.submit("dies")
                async with asyncio.timeout(20):
                    await stored.wait()
                    await asyncio.sleep(0.2)  # it writes the entry's time to live, for as long as it takes
                async with asyncio.timeout(8):
                    await router.stop()
                assert not router._tasks
