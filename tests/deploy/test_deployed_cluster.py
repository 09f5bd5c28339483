"""The compose file's three NATS nodes as real servers: three copies of everything, and jobs that outlive a node."""

import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from deployed import NODES, SERVICES
from nats_cluster import Cluster

from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.settings import Config

pytestmark = pytest.mark.long

REQUEST_WITHIN = 3.0
STREAMS = ("CRITICAL", "HIGH", "NORMAL", "LOW", "SCHEDULE", "PROGRESS", "DEAD")


def environment(cluster: Cluster, name: str = "setup") -> dict[str, str]:
    """The compose file's settings of a service, for this machine, without Postgres."""
    given = SERVICES[name]["environment"]
    kept = {name: value for name, value in given.items() if name.startswith(("NATS_", "JSJOBS_NATS_"))}
    kept |= {name: given[name] for name in ("JSJOBS_REPLICAS", "JSJOBS_QUEUE_BYTES")}
    return {name: cluster.here("nats-1", value) for name, value in kept.items()}


def config_of(cluster: Cluster, name: str) -> Config:
    given = environment(cluster, name)
    who = {
        what: given[f"JSJOBS_NATS_{what[5:].upper()}"] for what in ("nats_user", "nats_password", "nats_inbox_prefix")
    }
    return Config(nats_url=given["NATS_URL"], replicas=3, ack_wait=5, timeout=REQUEST_WITHIN, **who)


def apply_streams(cluster: Cluster) -> None:
    """As the compose file's setup does, which runs again when it fails: a new cluster's first leader may not stay."""
    command = shlex.split(SERVICES["setup"]["command"][0].split("&&")[-1])
    command[0] = str(Path(sys.executable).with_name("jsjobs"))
    others = bare_environment()
    policy, _, tries = SERVICES["setup"]["restart"].partition(":")
    assert policy == "on-failure"
    for _ in range(int(tries)):
        done = subprocess.run(
            command,
            env=others | environment(cluster),
            cwd=cluster.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            return
    raise AssertionError(done.stdout + done.stderr)


async def leader_of(connection: Connection, stream: str) -> str:
    return (await call(connection, f"STREAM.INFO.{stream}"))["cluster"].get("leader", "")


async def assert_three_copies(connection: Connection) -> None:
    for name in ("KV_jobs", *(f"JOBS_{kind}" for kind in STREAMS)):
        info = await call(connection, f"STREAM.INFO.{name}")
        assert info["config"]["num_replicas"] == 3, name
        assert len(info["cluster"]["replicas"]) == 2, name


@pytest.mark.timeout(240)
async def test_jobs_outlive_the_node_that_led_their_queue(cluster: Cluster) -> None:
    cluster.is_secured = True
    cluster.start("nats-1")
    with pytest.raises(AssertionError, match="still not true"):
        await eventually(partial(cluster.is_healthy, "nats-1"), within=2)  # it cannot have a leader yet
    for name in ("nats-2", "nats-3"):
        cluster.start(name)
    for name in NODES:
        await eventually(partial(cluster.is_healthy, name), within=30)
    apply_streams(cluster)

    service = JobService(config_of(cluster, "worker"))
    ran: list[int] = []

    @service.handler("echo")
    async def echo(number: int) -> int:
        ran.append(number)
        return number

    connection = await connect(config_of(cluster, "setup"))
    try:
        await assert_three_copies(connection)
        async with service, service.worker():
            job_id = await service.submit("echo", 1, entity="one")
            assert await service.result(job_id, timeout=20) == 1

            killed = await leader_of(connection, "JOBS_NORMAL")
            cluster.kill(killed)

            async def submitted() -> str:
                # While the others elect a leader it may be refused; with its key it is queued once all the same.
                return await service.submit("echo", 2, entity="one", dedupe_key="two")

            job_id = await eventually(submitted, within=60)

            async def completed() -> bool:
                status = await service.status(job_id)
                return status.status == "complete"

            await eventually(completed, within=60)
            assert sorted(set(ran)) == [1, 2]
            assert await leader_of(connection, "JOBS_NORMAL") in set(NODES) - {killed}
    finally:
        await connection.close()
