"""Replicated streams refuse in words of their own while another write of the same subject or key is under way."""

import asyncio

import pytest
from nats_cluster import Cluster

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.room import find_no_room
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.jobs.state_store import Conflict, StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.settings import Config

pytestmark = pytest.mark.long


async def deployed(cluster: Cluster) -> Config:
    url = await cluster.form()
    config = Config(nats_url=url, replicas=3, queue_bytes=2**26)
    connection = await connect(config)

    async def applied() -> bool:
        await TopologyReconciler(connection, Names("jobs"), config).apply()  # a new cluster's first leader may not stay
        return True

    await eventually(applied, within=60)
    await connection.close()
    return config


async def test_submitting_a_key_at_once_from_two_places_queues_it_once(cluster: Cluster) -> None:
    async with JobService(await deployed(cluster)) as one:
        ids = await asyncio.gather(*(one.submit("echo", 1, entity="a", dedupe_key="same") for _ in range(3)))
        assert len(set(ids)) == 1
        assert sorted(found.duplicate for found in ids) == [False, True, True]


async def test_of_two_writes_at_once_one_is_in_conflict(cluster: Cluster) -> None:
    config = await deployed(cluster)
    connection = await connect(config)
    try:
        states = [StateStore(connection, Names("jobs")) for _ in range(2)]
        entry = JobStatusResponse(
            job_id="normal-1", status=Status.QUEUED, type="echo", priority=Priority.NORMAL, created_at=utc_now()
        )
        answers = await asyncio.gather(*(state.write(entry, expected=0) for state in states), return_exceptions=True)
        assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [Conflict], answers
    finally:
        await connection.close()


async def test_asking_for_room_stores_nothing_and_harms_no_replica(cluster: Cluster) -> None:
    config = await deployed(cluster)
    connection = await connect(config)
    names = Names("jobs")
    try:

        async def last() -> int:
            info = await call(connection, f"STREAM.INFO.{names.state_stream}")
            return int(info["state"]["last_seq"])

        before = await last()
        for _ in range(5):
            assert await find_no_room(connection, names) is None
        assert await last() == before
        entry = JobStatusResponse(
            job_id="normal-1", status=Status.QUEUED, type="echo", priority=Priority.NORMAL, created_at=utc_now()
        )
        assert await StateStore(connection, names).write(entry, expected=0) == before + 1

        async def all_have_it() -> bool:
            info = await call(connection, f"STREAM.INFO.{names.state_stream}")
            return all(replica["current"] for replica in info["cluster"]["replicas"])

        await eventually(all_have_it)  # a replica may be a moment behind
    finally:
        await connection.close()
