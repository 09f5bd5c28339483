"""The micro service of real processes: a worker's, that of `jsjobs rpc`, and how they stop."""

import asyncio
import json
import signal
from typing import Any

import pytest
from cli_process import Cli
from http_probe import health_of
from nats.aio.client import Client
from nats.errors import NoRespondersError

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer


async def ask(client: Client, config: JobService.Config, endpoint: str, body: Any) -> tuple[str, Any]:
    message = await client.request(f"{config.namespace}.rpc.{endpoint}", json.dumps(body).encode(), timeout=20)
    error = (message.headers or {}).get("Nats-Service-Error", "")
    return error, json.loads(message.data) if message.data else None


async def test_alone_it_serves_all_but_runs_nothing(cli: Cli, config: JobService.Config, plain: Client) -> None:
    process = await cli.start("rpc", "--health-port", "0")
    health = await health_of(process)
    await process.says(f"rpc ready: namespace {config.namespace}")
    await eventually(lambda: health.says("/ready", 200))
    error, receipt = await ask(plain, config, "submit", {"type": "echo", "payload": {"n": 1}})
    assert error == ""
    _, status = await ask(plain, config, "status", receipt_of(receipt))
    assert status["status"] == "queued"
    error, _ = await ask(plain, config, "result", {**receipt_of(receipt), "timeout": 0.1})
    assert error.startswith("Timeout: ")
    _, cancelled = await ask(plain, config, "cancel", receipt_of(receipt))
    assert cancelled["status"] == "cancelled"
    error, _ = await ask(plain, config, "replay", {"dlq_id": "normal-17"})
    assert error.startswith("NotFound: ")
    process.signal(signal.SIGTERM)
    ended = await process.ends()
    assert (ended.code, ended.out) == (0, "")
    assert "Traceback" not in ended.err


def receipt_of(receipt: dict[str, Any]) -> dict[str, Any]:
    return {"job_id": receipt["job_id"]}


async def test_a_worker_that_stops_answers_who_waits_for_its_jobs(
    cli: Cli, config: JobService.Config, plain: Client
) -> None:
    worker = await cli.worker(JSJOBS_GRACE="20", JSJOBS_ACK_WAIT="30")
    _, receipt = await ask(plain, config, "submit", {"type": "sleep", "payload": 1, "duration": "long"})

    async def runs() -> bool:
        return (await ask(plain, config, "status", receipt_of(receipt)))[1]["status"] == "processing"

    await eventually(runs)
    result = asyncio.ensure_future(ask(plain, config, "result", receipt_of(receipt)))
    # Behind the request for the result on the same connection, so that was taken.
    assert await runs()
    worker.signal(signal.SIGTERM)
    assert await result == ("", {**receipt_of(receipt), "result": "slept"})
    assert (await worker.ends()).code == 0
    with pytest.raises(NoRespondersError):
        await ask(plain, config, "status", receipt_of(receipt))


@pytest.mark.parametrize("second", [True, False])
async def test_alone_it_answers_what_is_under_way_within_the_grace_time(
    cli: Cli, config: JobService.Config, plain: Client, *, second: bool
) -> None:
    process = await cli.start("rpc", JSJOBS_GRACE="60" if second else "1")
    await process.says("rpc ready: namespace")
    _, receipt = await ask(plain, config, "submit", {"type": "nobody.runs.this"})
    result = asyncio.ensure_future(ask(plain, config, "result", receipt_of(receipt)))
    await ask(plain, config, "status", receipt_of(receipt))
    process.signal(signal.SIGINT)
    await process.says("stopping: answering 1 open request; a second signal interrupts")
    if second:
        process.signal(signal.SIGINT)
    error, _ = await result
    assert error.startswith("RunnerUnavailable: this instance is stopping")
    assert (await process.ends()).code == 0


async def test_its_readiness_follows_its_connection(bare_cli: Cli, tmp_path: Any) -> None:
    with NatsServer(tmp_path / "own") as server:
        process = await bare_cli.start("rpc", "--health-port", "0", NATS_URL=server.url)
        health = await health_of(process)
        await eventually(lambda: health.says("/ready", 200))
        server.stop()
        await eventually(lambda: health.says("/ready", 503, "there is no connection to NATS"))
        server.start()
        await eventually(lambda: health.says("/ready", 200))
        process.signal(signal.SIGTERM)
        assert (await process.ends()).code == 0


async def test_without_a_server_it_ends_with_one_line(bare_cli: Cli) -> None:
    ended = await bare_cli.run("rpc", "--nats-url", "nats://127.0.0.1:9")
    assert ended.code == 1
    assert "cannot reach NATS at nats://127.0.0.1:9" in ended.err
    assert "Traceback" not in ended.err
