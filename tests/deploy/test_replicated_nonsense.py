"""A priority of three copies whose list of generations is not true keeps no other from being looked after."""

import pytest
from nats_cluster import Cluster

from facts import eventually
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.consumers import FOR_GOOD, GenerationConsumers
from jsjobs.jetstream.topology.generations import read_live
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.settings import Config

pytestmark = pytest.mark.long
NAMES = Names("jobs")


@pytest.mark.timeout(120)
async def test_jobs_of_a_generation_that_no_list_names_are_left_to_an_operator(cluster: Cluster) -> None:
    config = Config(nats_url=await cluster.form(), replicas=3, queue_bytes=2**26)

    async def applied() -> bool:
        async with connected(config) as connection:
            await TopologyReconciler(connection, NAMES, config).apply()
        return True

    await eventually(applied, within=60)
    async with connected(config) as connection:
        topology = TopologyReconciler(connection, NAMES, config)
        await connection.ask(b"jobs.normal.e.echo", b"1")
        await connection.ask(b"$KV.jobs.topology.normal", b'{"generations": ["7x1"]}')
        await pause_consumer(connection, "JOBS_HIGH", "high-1x3-0", FOR_GOOD)
        [left] = await topology.finish(wait=False)
        assert left.startswith("JOBS_NORMAL: it has 3 copies")
        assert "`jsjobs streams apply --one-copy`" in left

        async def others_go_on() -> bool:
            shards = await GenerationConsumers(connection, NAMES, config, Priority.HIGH).all()
            return all(info.paused_until is None for info in shards.values())

        await eventually(others_go_on)
        await topology.apply(one_copy=True, wait=False)
        generations = (await read_live(connection, NAMES, Priority.NORMAL)).generations
        assert "1x2" in map(str, generations)
        assert (await call(connection, "STREAM.INFO.JOBS_NORMAL"))["state"]["messages"] == 1
