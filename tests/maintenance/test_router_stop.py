"""A router ends when it is told to, whatever it waits for."""

import asyncio

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance import router as router_module
from jsjobs.postgres.dead_letters import DeadLetters


async def test_a_router_stops_while_its_server_is_away(settings_of, tmp_path, monkeypatch) -> None:
    stored = asyncio.Event()
    monkeypatch.setattr(router_module, "LAST_WORD", 1.0)
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
            await TopologyReconciler(jobs.connection, Names(jobs.config.namespace), jobs.config).apply()
            router = jobs.router()
            await router.start()
            async with jobs.worker():
                await jobs.submit("dies")
                async with asyncio.timeout(20):
                    await stored.wait()
                    await asyncio.sleep(0.2)  # it writes the entry's time to live, for as long as it takes
                async with asyncio.timeout(8):
                    await router.stop()
                assert not [task for task in asyncio.all_tasks() if task.get_coro().__qualname__.startswith("Router.")]


async def test_a_letter_in_hand_when_a_router_is_cut_short_comes_to_the_next_at_once(
    jobs: JobService, monkeypatch
) -> None:
    monkeypatch.setattr(router_module, "LAST_WORD", 0.1)
    at_it = asyncio.Event()
    store = DeadLetters.store

    async def stuck(*args) -> bool:
        at_it.set()
        await asyncio.sleep(60)
        return await store(*args)

    @jobs.handler("dies")
    async def dies(payload: object) -> None:
        raise JobService.Error("Validation", "dead")

    async with jobs.worker():
        await jobs.submit("dies")
        with monkeypatch.context() as broken:
            broken.setattr(DeadLetters, "store", stuck)
            async with jobs.router(), asyncio.timeout(20):
                await at_it.wait()
        async with jobs.router():

            async def is_stored() -> bool:
                return await jobs.dlq.count() == 1

            await eventually(is_stored, within=15)  # the router's `ack_wait` is 30 s
