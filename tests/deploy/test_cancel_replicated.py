"""Cancelling on three nodes, where a read may come from a replica that lags behind."""

import nats
import pytest
from nats_cluster import Cluster

from cancel_race import run_race
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.settings import Config

pytestmark = pytest.mark.long


@pytest.mark.timeout(240)
async def test_a_race_on_replicas(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    url = await cluster.form()
    config = Config(nats_url=url, replicas=3, queue_bytes=2**26, ack_wait=2, retry=JobService.Retry(initial=0.002))

    async def applied() -> bool:
        async with connected(config) as connection:
            await TopologyReconciler(
                connection, Names("jobs"), config
            ).apply()  # a new cluster's first leader may not stay
        return True

    await eventually(applied, within=60)
    client = await nats.connect(url.split(","))
    async with JobService(config) as jobs:
        # At once after the receipt: no replica but the leader's majority need have the message.
        for _ in range(50):
            job_id = await jobs.submit("race", {}, priority="low")
            assert (await jobs.cancel(job_id)).status == "cancelled"
    _, ends = await run_race(config, client, monkeypatch, seed=seed, rounds=400)
    await client.close()
    assert set(ends) >= {"short cancelled 0", "short complete -1", "long cancelled 1"}, ends
