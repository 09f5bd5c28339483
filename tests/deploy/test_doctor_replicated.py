"""What the doctor says of three nodes with three copies: nothing, until nodes go."""

import pytest
from nats_cluster import Cluster

from diagnosis import becomes, ills
from facts import eventually
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

pytestmark = pytest.mark.long

NODES = """
accounts {
  APP {
    jetstream: enabled
    users: [{user: app, password: pw}]
    imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ"}}]
  }
  SYS {users: [], exports: [{service: "$SYS.REQ.SERVER.PING.JSZ", response: stream, accounts: [APP]}]}
}
system_account: SYS
jetstream {sync_interval: always}
"""


@pytest.mark.timeout(240)
async def test_a_cluster_that_loses_its_nodes(cluster: Cluster, database_url: str) -> None:
    cluster.config = NODES
    url = (await cluster.form()).replace("nats://", "nats://app:pw@")
    config = JobService.Config(nats_url=url, database_url=database_url, replicas=3, queue_bytes=2**26, ack_wait=3)

    async def is_applied() -> bool:
        async with connected(config) as connection:
            await TopologyReconciler(connection, Names("jobs"), config).apply()
        return True

    async def is_well() -> bool:
        return not await ills(config)

    await eventually(is_applied, within=60)
    async with JobService(config) as jobs, jobs.worker(), jobs.router():
        await eventually(is_well, within=30)
        cluster.kill("nats-2")

        async def is_told_of_all() -> bool:
            """Once other leaders are elected; streams without one are told of until then."""
            said = (await ills(config)).get("copies", [])
            assert {finding.severity for finding in said} == {Severity.PROBLEM}
            assert all("start" in finding.remedy for finding in said)
            return [finding.where for finding in said] == ["nats-2"] and "and 9 more: one less" in said[0].what

        await eventually(is_told_of_all, within=60)
    cluster.kill("nats-3")
    finding = await becomes(config, "limits", Severity.PROBLEM, within=60)
    assert "JetStream is not available" in finding.what
    assert "more than half of the servers" in finding.remedy
