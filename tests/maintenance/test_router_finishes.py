"""A router goes on with a change of the shard count that nobody waits for any more, and decides none itself."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology.generations import live_shards, read_live
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance.stranded import StrandedMessages
from jsjobs.model.job import Priority
from jsjobs.postgres.errors import DatabaseError
from jsjobs.settings import Config


async def test_a_change_whose_beginner_is_gone_is_finished(
    jobs: JobService, connection: Connection, settings_of: Callable[..., Config]
) -> None:
    names = Names(jobs.config.namespace)

    @jobs.handler("echo")
    async def echo(payload: Any) -> Any:
        return payload

    before = await jobs.submit("echo", 1, entity="e")
    asked = settings_of(pools={"normal": 5})
    await TopologyReconciler(connection, names, asked).apply(wait=False)
    after = await jobs.submit("echo", 2, entity="e")
    async with jobs.router() as router, jobs.worker():
        assert await jobs.result(before) == 1
        await router.sweep()
        assert await jobs.result(after) == 2
        assert (await read_live(connection, names, Priority.NORMAL)).generations == (Generation(2, 5),)
        await router.sweep()
    assert (await read_live(connection, names, Priority.NORMAL)).generations == (Generation(2, 5),), (
        "its own settings say 2 shards, and are not asked"
    )


async def test_a_change_is_finished_also_while_postgres_is_down(
    config: Config, deploy: Callable[[Config], Any], connection: Connection, settings_of: Callable[..., Config]
) -> None:
    await deploy(config)
    names = Names(config.namespace)
    async with JobService(settings_of(database_url="postgresql://127.0.0.1:1/none")) as jobs:

        @jobs.handler("echo")
        async def echo(payload: Any) -> Any:
            return payload

        router = jobs.router()
        await connection.ask(f"{names.namespace}.low.e.>".encode(), b"1")

        async def would_be_buried() -> bool:
            try:
                await router.sweep()
            except DatabaseError:
                return True
            return False

        await eventually(would_be_buried)
        before = await jobs.submit("echo", 1, entity="e")
        await TopologyReconciler(connection, names, settings_of(pools={"normal": 5})).apply(wait=False)
        after = await jobs.submit("echo", 2, entity="e")
        async with jobs.worker():
            assert await jobs.result(before) == 1
            assert await would_be_buried()
            assert await jobs.result(after) == 2


async def test_a_missing_shard_is_restored_and_none_is_made_before_the_first_apply(
    config: Config, deploy: Callable[[Config], Any], connection: Connection
) -> None:
    names = Names(config.namespace)
    async with JobService(config) as jobs:
        router = jobs.router()
        await router.sweep()
        assert await live_shards(connection, names) == {}
        await deploy(config)
        lost = Shard(Priority.HIGH, Generation(1, 3), 1)
        await call(connection, f"CONSUMER.DELETE.{names.stream('high')}.{lost.consumer}")
        await router.sweep()
        assert lost in await live_shards(connection, names)


async def test_a_sweep_that_is_cancelled_does_not_begin_to_finish_changes(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = []

    async def hang(stranded: StrandedMessages) -> None:
        at_work.append(asyncio.current_task())
        await asyncio.sleep(3600)

    async def fail(topology: TopologyReconciler, *, wait: bool) -> None:
        raise ConnectionLost("no answer")

    async with jobs.router() as router:
        monkeypatch.setattr(StrandedMessages, "begin", hang)
        sweeping = asyncio.ensure_future(router.sweep())
        await eventually(lambda: sweeping in at_work)  # and not the router's own alone
        monkeypatch.setattr(TopologyReconciler, "finish", fail)
        sweeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sweeping, 20)
