"""A replicated queue that takes nothing of what is due gets another leader; one that does keeps its own."""

from functools import partial

import pytest
from nats_cluster import Cluster

from facts import eventually
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology import source_recovery
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.topology.source_recovery import after_more_copies, see_that_it_sources
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue
from jsjobs.settings import Config

pytestmark = pytest.mark.long

NAMES = Names("jobs")
LOW, SCHEDULE = NAMES.stream("low"), NAMES.schedule_stream


async def leader(over: Connection, stream: str) -> str:
    async def look() -> str:
        return str((await call(over, f"STREAM.INFO.{stream}"))["cluster"].get("leader", ""))

    return await eventually(look, within=30)


async def leads_another(over: Connection, stream: str, before: str) -> bool:
    return await leader(over, stream) != before


@pytest.mark.timeout(240)
async def test_a_queue_gets_another_leader_only_where_it_takes_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(nats_url=await cluster.form(), replicas=3, queue_bytes=2**26)
    over = await connect(config)

    async def applied() -> bool:
        await TopologyReconciler(over, NAMES, config).apply()  # a new cluster's first leader may not stay
        return True

    await eventually(applied, within=60)
    monkeypatch.setattr(source_recovery, "WITHIN", 30.0)
    before = await leader(over, LOW)
    assert await see_that_it_sources(over, LOW)
    assert await leader(over, LOW) == before

    # The queue of a source that is gone hears nothing, whoever leads it.
    await call(over, f"CONSUMER.DELETE.{SCHEDULE}.{NAMES.source(Queue(Priority.LOW))}")
    monkeypatch.setattr(source_recovery, "WITHIN", 12.0)
    assert not await see_that_it_sources(over, LOW)
    assert await leads_another(over, LOW, before)

    before = await leader(over, SCHEDULE)
    await after_more_copies(over, NAMES, SCHEDULE)
    await eventually(partial(leads_another, over, SCHEDULE, before), within=30)
    before = await leader(over, NAMES.dead_stream)
    await after_more_copies(over, NAMES, NAMES.dead_stream)
    assert await leader(over, NAMES.dead_stream) == before
    await over.close()
