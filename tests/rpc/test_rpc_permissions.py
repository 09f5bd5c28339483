"""A tenant that may only publish on its own subject submits its own jobs and nothing else."""

import asyncio
import json
from pathlib import Path

import nats
import pytest

from jsjobs import JobService
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.rpc import Rpc

USERS = """
authorization {
  users: [
    { user: serves, password: pw }
    { user: acme, password: pw, permissions: {
        publish: ["shop.rpc.tenant.acme.submit"], subscribe: ["_INBOX_acme.>"] } }
  ]
}
"""


async def test_a_tenant_with_a_subject_of_its_own(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", config=USERS) as server:
        config = JobService.Config(
            nats_url=server.url, nats_user="serves", nats_password="pw", namespace="shop", queue_bytes=64 * 2**20
        )
        async with JobService(config) as jobs:
            await Topology(jobs.connection, Names("shop"), config).apply()
            refusals: asyncio.Queue[str] = asyncio.Queue()

            async def refused(error: Exception) -> None:
                refusals.put_nowait(str(error))

            acme = await nats.connect(
                server.url, user="acme", password="pw", inbox_prefix="_INBOX_acme", error_cb=refused
            )
            async with Rpc(jobs):
                answer = await acme.request("shop.rpc.tenant.acme.submit", b'{"type": "echo"}', timeout=20)
                job_id = json.loads(answer.data)["job_id"]
                assert (await jobs.status(job_id)).tenant == "acme"
                for subject in ("shop.rpc.tenant.other.submit", "shop.rpc.submit", "shop.normal.e.echo"):
                    await acme.publish(subject, b'{"type": "echo"}', reply=acme.new_inbox())
                    async with asyncio.timeout(20):
                        assert "permissions violation for publish" in (await refusals.get()).lower()
                with pytest.raises(nats.errors.TimeoutError):
                    await acme.request("shop.rpc.status", json.dumps({"job_id": job_id}).encode(), timeout=0.5)
            info = await jobs.connection.jetstream().stream_info("SHOP_NORMAL")
            assert info.state.messages == 1
            await acme.close()
