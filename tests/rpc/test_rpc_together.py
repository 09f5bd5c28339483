"""Many requests, several instances, servers that go, and stopping."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.micro.service import ServiceConfig, ServiceInfo, ServicePing, ServiceStats
from rpc_client import Asking

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.rpc import Rpc
from jsjobs.rpc.serving import semantic


async def test_a_slow_result_holds_up_nobody(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    job_id = await jobs.submit("nobody.runs.this")
    slow = [asyncio.ensure_future(ask("result", {"job_id": job_id, "timeout": 20})) for _ in range(100)]

    async def waiting() -> bool:
        return rpc.requests == 100

    await eventually(waiting)
    for _ in range(10):
        assert (await ask.done("status", {"job_id": job_id}, timeout=5))["status"] == "queued"
    assert not any(request.done() for request in slow)
    await ask.done("cancel", {"job_id": job_id})
    assert {answer.outcome for answer in await asyncio.gather(*slow)} == {(409, "AlreadyCancelled")}


async def test_two_instances_share_the_requests(config: Any, deploy: Any, ask: Asking, plain: Client) -> None:
    await deploy(config)
    async with JobService(config) as one, JobService(config) as two, Rpc(one), Rpc(two):
        receipts = [await ask.done("submit", {"type": "echo", "payload": n}) for n in range(100)]
        assert len({receipt["job_id"] for receipt in receipts}) == 100
        subscription = await plain.subscribe(inbox := plain.new_inbox())
        await plain.publish(f"$SRV.STATS.{config.namespace}", b"", reply=inbox)
        told = [ServiceStats.from_dict(json.loads((await subscription.next_msg()).data)) for _ in range(2)]
        counts = [next(each.num_requests for each in stats.endpoints if each.name == "submit") for stats in told]
        assert sum(counts) == 100
        assert min(counts) > 0
        assert len({stats.id for stats in told}) == 2


async def test_it_can_be_discovered(jobs: JobService, rpc: Rpc, ask: Asking, plain: Client) -> None:
    name = jobs.config.namespace
    ping = ServicePing.from_dict(json.loads((await plain.request(f"$SRV.PING.{name}")).data))
    info = ServiceInfo.from_dict(json.loads((await plain.request(f"$SRV.INFO.{name}.{ping.id}")).data))
    assert (info.name, info.version, info.id) == (name, ping.version, ping.id)
    subjects = {endpoint.name: endpoint.subject for endpoint in info.endpoints}
    assert subjects == {
        **{
            each: f"{name}.rpc.{each}"
            for each in ("submit", "status", "result", "progress", "cancel", "reschedule", "replay")
        },
        "tenant-submit": f"{name}.rpc.tenant.*.submit",
    }
    for endpoint in info.endpoints:
        request = json.loads(endpoint.metadata["request_schema"])
        response = json.loads(endpoint.metadata["response_schema"])
        assert request["additionalProperties"] is False
        assert (request["type"], response["type"]) == ("object", "object")
    await ask("status", {"job_id": "a secret of another tenant"})
    stats = ServiceStats.from_dict(json.loads((await plain.request(f"$SRV.STATS.{name}.{ping.id}")).data))
    status = next(each for each in stats.endpoints if each.name == "status")
    assert (status.num_requests, status.num_errors, status.last_error) == (1, 1, "404: NotFound")
    assert status.average_processing_time > 0


@pytest.mark.parametrize(
    ("python", "semantic_one"),
    [("0.1.0", "0.1.0"), ("1.2", "1.2.0"), ("0.2.0rc1", "0.2.0-rc1"), ("1.0.dev3+g12.x", "1.0.0-dev3+g12.x")],
)
def test_versions(python: str, semantic_one: str) -> None:
    assert semantic(python) == semantic_one
    ServiceConfig(name="x", version=semantic_one)  # raises where NATS does not take it


def test_what_is_no_version() -> None:
    with pytest.raises(ValueError, match="is not a version"):
        semantic("next")


async def test_it_serves_again_after_the_server_was_away(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        config = JobService.Config(nats_url=server.url, namespace="away", queue_bytes=64 * 2**20)
        async with JobService(config) as jobs:
            await TopologyReconciler(jobs.connection, Names("away"), config).apply()
            client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
            ask = Asking(client, "away")
            async with Rpc(jobs) as rpc:
                job_id = (await ask.done("submit", {"type": "echo"}))["job_id"]
                assert rpc.why_not_ready == ""
                server.kill()

                async def lost() -> bool:
                    return rpc.why_not_ready == "there is no connection to NATS"

                await eventually(lost)
                server.start()

                async def answers() -> bool:
                    return (await ask.done("status", {"job_id": job_id}, timeout=1))["status"] == "queued"

                await eventually(answers)
                assert (await client.request("$SRV.PING.away")).data
            await client.close()


async def test_its_end_answers_what_is_under_way(jobs: JobService, ask: Asking) -> None:
    @jobs.handler("wait")
    async def wait(_: Any) -> str:
        await go.wait()
        return "done"

    go = asyncio.Event()
    async with jobs.worker():
        rpc = Rpc(jobs)
        async with rpc:
            job_id = await jobs.submit("wait")
            result = asyncio.ensure_future(ask("result", {"job_id": job_id}))

            async def waiting() -> bool:
                return rpc.requests == 1

            await eventually(waiting)
            rpc.stop_taking()

            async def takes_no_more() -> bool:
                try:
                    await ask("status", {"job_id": job_id})
                except nats.errors.NoRespondersError:
                    return True
                return False

            await eventually(takes_no_more)
            assert not result.done()
            go.set()
        assert (await result).value == {"job_id": job_id, "result": "done"}


async def test_what_is_not_done_in_the_grace_time_is_told_so(settings_of: Any, deploy: Any, ask: Asking) -> None:
    config = settings_of(grace=0.3)
    await deploy(config)
    async with JobService(config) as jobs:
        async with Rpc(jobs) as rpc:
            job_id = await jobs.submit("nobody.runs.this")
            result = asyncio.ensure_future(ask("result", {"job_id": job_id}))

            async def waiting() -> bool:
                return rpc.requests == 1

            await eventually(waiting)
        answer = await result
    assert answer.outcome == (503, "RunnerUnavailable")
    assert "this instance is stopping" in answer.error


async def test_without_streams_it_says_so(config: Any, ask: Asking) -> None:
    async with JobService(config) as jobs, Rpc(jobs):
        for endpoint, body in (("submit", {"type": "echo"}), ("status", {"job_id": "normal-17"})):
            answer = await ask(endpoint, body)
            assert answer.outcome == (503, "RunnerUnavailable"), answer.error


async def test_a_service_that_is_not_connected_cannot_be_served(config: Any) -> None:
    with pytest.raises(JobService.Error, match="not connected"):
        async with Rpc(JobService(config)):
            pass
