"""A router may change no stream: it leaves such a step to an operator, says so once, and does everything else."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from commands import commands
from secured import environment

from jsjobs import JobService
from jsjobs.cli.run.health import readiness_of
from jsjobs.jetstream.protocol.names import Generation, Names
from jsjobs.jetstream.topology.generations import live_shards, read_live, write_live
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from stream_facts import delete_consumer

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")


async def begin(operator: JobService, priority: Priority, generation: Generation) -> None:
    """What is there when whoever changes a shard count dies after its first write."""
    live = await read_live(operator.connection, NAMES, priority)
    begun = replace(live, generations=(*live.generations, generation))
    await write_live(operator.connection, NAMES, priority, begun)


async def generations(operator: JobService, priority: Priority) -> list[str]:
    return [str(each) for each in (await read_live(operator.connection, NAMES, priority)).generations]


async def test_it_leaves_what_changes_a_stream_and_goes_on(as_user: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jsjobs")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with JobService(as_user("operator")) as operator, JobService(as_user("router")) as routers, worker:
        waits = await operator.submit("echo", 1, priority="high", entity="e")
        await TopologyReconciler(operator.connection, NAMES, as_user("operator", pools={"high": 5})).apply(wait=False)
        await begin(operator, Priority.NORMAL, Generation(2, 3))
        await delete_consumer(operator.connection, "JOBS_LOW", "low-1x1-0")
        await delete_consumer(operator.connection, "JOBS_NORMAL", "normal-1x2-1")
        router = routers.router()
        async with worker.worker():
            assert await worker.result(waits, timeout=20) == 1
            for _ in range(3):
                await router.sweep()
            # The change that an operator took through the stream is finished, what was lost is made again.
            assert await generations(operator, Priority.HIGH) == ["2x5"]
            shards = {shard.consumer for shard in await live_shards(operator.connection, NAMES)}
            assert {"low-1x1-0", "normal-1x2-0", "normal-1x2-1", "normal-2x3-2"} <= shards
            # The other one stands where it stood, and its jobs run.
            assert await generations(operator, Priority.NORMAL) == ["1x2", "2x3"]
            assert await worker.result(await operator.submit("echo", 2, entity="e"), timeout=20) == 2
            [left] = router.left
            assert left.startswith("JOBS_NORMAL: this user may not change its shards")
            assert "jsjobs streams apply" in left
            assert left in readiness_of(None, router).notes
            assert caplog.text.count("so an operator must") == 1
            env = environment(as_user("operator"), JSJOBS_POOLS='{"normal": 3, "high": 5}')
            [examined] = await commands((env, ("doctor",)))
            assert "run the same `jsjobs streams apply` again" in " ".join(examined.out.split())
            [applied] = await commands((env, ("streams", "apply")))
            assert applied.code == 0, applied.err
            assert await generations(operator, Priority.NORMAL) == ["2x3"]
            await router.sweep()
            assert router.left == []
            assert await worker.result(await operator.submit("echo", 3, entity="e"), timeout=20) == 3


async def test_copies_that_a_change_took_away_are_not_forgotten(as_user: Settings) -> None:
    """The old shards are drained and removed all the same; that copies are missing stays written down."""
    async with JobService(as_user("operator")) as operator, JobService(as_user("router")) as routers:
        more = as_user("operator", pools={"normal": 3})
        waits = await operator.submit("echo", 1, entity="e")
        await TopologyReconciler(operator.connection, NAMES, more).apply(wait=False)
        live = await read_live(operator.connection, NAMES, Priority.NORMAL)
        assert len(live.generations) == 2
        await write_live(operator.connection, NAMES, Priority.NORMAL, replace(live, copies=3))
        await operator.cancel(waits)
        router = routers.router()
        for _ in range(2):
            await router.sweep()
            live = await read_live(operator.connection, NAMES, Priority.NORMAL)
            assert ([str(each) for each in live.generations], live.copies) == (["2x3"], 3)
            assert [left.partition(":")[0] for left in router.left] == ["JOBS_NORMAL"]
