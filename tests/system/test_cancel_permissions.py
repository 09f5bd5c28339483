"""Cancelling with no more rights than the documentation asks for."""

import asyncio
import time
from pathlib import Path

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from stream_facts import messages_in

USERS = """
authorization {
  users: [
    { user: works, password: pw }
    { user: cancels, password: pw, permissions: {
        publish: ["$JS.API.DIRECT.GET.>", "$KV.shop.*", "shop.cancel.*"], subscribe: ["_INBOX.>", "$KV.shop.*"] } }
  ]
}
"""


async def test_who_may_not_delete_messages_can_cancel_and_a_worker_drops_them(tmp_path: Path) -> None:
    ran = []
    started = asyncio.Event()
    with NatsServer(tmp_path / "nats", config=USERS) as server:
        config = JobService.Config(
            nats_url=server.url, nats_user="works", nats_password="pw", namespace="shop", queue_bytes=64 * 2**20
        )
        async with JobService(config) as jobs, JobService(config.model_copy(update={"nats_user": "cancels"})) as caller:

            @jobs.handler("note")
            async def note(payload: str) -> None:
                ran.append(payload)
                started.set()
                if payload == "runs":
                    await asyncio.sleep(60)

            await TopologyReconciler(jobs.connection, Names("shop"), config).apply()
            waiting, behind, running = await jobs.submit("note", ["waits", "is next", "runs"], entity="one")
            began = time.monotonic()
            assert (await caller.cancel(waiting, timeout=1)).status == "cancelled"
            assert time.monotonic() - began < 8, "the refused deletion is waited for no longer than asked for"
            async with jobs.worker():
                await jobs.result(behind)
                async with asyncio.timeout(20):
                    while "runs" not in ran:
                        started.clear()
                        await started.wait()
                assert (await caller.cancel(running)).status == "cancelled"
            assert await messages_in(jobs.connection, "SHOP_NORMAL") == 0
    assert ran == ["is next", "runs"]
