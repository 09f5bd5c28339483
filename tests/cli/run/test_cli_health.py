"""`/live` and `/ready` of the real processes, while what they need comes and goes."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import Cli
from http_probe import health_of

from facts import eventually, is_processing
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer

BLOCKING = """
import time
from jsjobs import JobService

jobs = JobService()

@jobs.handler("block")
async def block(seconds: float):
    time.sleep(seconds)
"""


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


async def test_a_worker_is_ready_while_its_streams_and_its_server_are_there(bare_cli: Cli, own_nats) -> None:
    bare_cli.env |= {"NATS_URL": own_nats.url, "JSJOBS_QUEUE_BYTES": str(64 * 2**20)}
    worker = await bare_cli.start("worker", "app:jobs", JSJOBS_HEALTH_PORT="0")
    health = await health_of(worker)
    await eventually(lambda: health.says("/ready", 503, "run `jsjobs streams apply`"))
    assert await health.says("/live", 200)
    assert (await bare_cli.run("streams", "apply")).code == 0
    await eventually(lambda: health.says("/ready", 200))
    assert await health.ask("/ready") == (200, {"status": "ready", "reasons": [], "notes": []})
    assert await health.ask("/live") == (200, {"status": "live", "reasons": []})

    own_nats.stop()
    await eventually(lambda: health.says("/ready", 503, "there is no connection to NATS"))
    assert await health.says("/live", 200)
    own_nats.start()
    await eventually(lambda: health.says("/ready", 200))
    own_nats.suspend()
    try:
        await eventually(lambda: health.says("/ready", 503), within=40)
        assert await health.says("/live", 200)
    finally:
        own_nats.resume()
    await eventually(lambda: health.says("/ready", 200), within=40)
    worker.signal(signal.SIGTERM)
    assert (await worker.ends()).code == 0


async def test_a_router_is_ready_while_its_consumer_is_there(bare_cli: Cli, own_nats) -> None:
    bare_cli.env |= {"NATS_URL": own_nats.url, "JSJOBS_QUEUE_BYTES": str(64 * 2**20)}
    nowhere = "postgresql://someone:secret@127.0.0.1:9/shop"
    router = await bare_cli.start("router", "--health-port", "0", "--database-url", nowhere)
    health = await health_of(router)
    await eventually(lambda: health.says("/ready", 503, "JOBS_DEAD has no consumer"))
    assert (await bare_cli.run("streams", "apply")).code == 0
    await eventually(lambda: health.says("/ready", 200))

    # Letters that wait for Postgres are said, and are no reason to take the router away.
    worker = await bare_cli.start("worker", "app:jobs")
    await worker.says("ready: namespace")
    assert (await bare_cli.run("submit", "fail", "1", "--max-attempts", "1", "--wait")).code == 1
    await eventually(
        lambda: health.says("/ready", 200, "dead letters are pending: Postgres at 127.0.0.1:9/shop is not available")
    )
    assert "secret" not in str(await health.ask("/ready"))
    own_nats.stop()
    await eventually(lambda: health.says("/ready", 503, "there is no connection to NATS"))
    assert await health.says("/live", 200)
    router.signal(signal.SIGTERM)
    assert (await router.ends()).code == 0


async def test_a_worker_that_drains_is_not_ready_and_alive(cli: Cli, config: JobService.Config) -> None:
    worker = await cli.start("worker", "app:jobs", "--health-port", "0", "--health-host", "127.0.0.1")
    health = await health_of(worker)
    await eventually(lambda: health.says("/ready", 200))
    async with JobService(config) as service:
        job_id = await service.submit("sleep", 1.5, duration="long")
        await eventually(lambda: is_processing(service, job_id))
        worker.signal(signal.SIGTERM)
        await eventually(lambda: health.says("/ready", 503, "stopping"))
        assert await health.says("/live", 200)
        assert (await service.status(job_id)).status == "processing"
        ended = await worker.ends()
        assert ended.code == 0, ended.err
        assert await service.result(job_id, timeout=1) == "slept"


@pytest.mark.long
async def test_a_handler_that_blocks_the_event_loop_is_told(cli: Cli, config: JobService.Config) -> None:
    (cli.folder / "blocking.py").write_text(BLOCKING)
    worker = await cli.start("worker", "blocking:jobs", "--health-port", "0")
    health = await health_of(worker)
    await eventually(lambda: health.says("/ready", 200))
    async with JobService(config) as service:
        await service.submit("block", 8, max_attempts=1)
    await eventually(lambda: health.says("/live", 503, "the event loop has not answered for"))
    assert await health.says("/ready", 503, "the event loop has not answered for")
    await eventually(lambda: health.says("/live", 200))


async def test_a_port_in_use_is_said_before_a_job_is_taken(cli: Cli, config: JobService.Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with JobService(config) as service:
            job_id = await service.submit("echo", 1)
            for command in (["worker", "app:jobs"], ["router"]):
                ended = await cli.run(*command, "--health-port", port)
                said = f"error: the health endpoints cannot listen on port {port}: Address already in use; "
                assert ended.code == 1
                assert ended.err.splitlines()[-1].startswith(said)
                assert "Traceback" not in ended.err
            assert (await service.status(job_id)).status == "queued"


async def test_with_json_logs_all_that_a_worker_says_is_json(cli: Cli) -> None:
    del cli.env["JSJOBS_DATABASE_URL"]
    worker = await cli.start("worker", "app:jobs", "--health-port", "0", "--log-format", "json")
    await worker.says("worker ready: namespace")
    worker.signal(signal.SIGTERM)
    ended = await worker.ends()
    said = [json.loads(line)["message"] for line in ended.err.splitlines()]
    assert ended.code == 0
    for begin in ("health endpoints /live and /ready on port", "no DATABASE_URL is set"):
        assert any(message.startswith(begin) for message in said)


async def test_a_port_that_cannot_be_is_wrong_use(cli: Cli) -> None:
    ended = await cli.run("worker", "app:jobs", "--health-port", "70000")
    assert ended.code == 2
    nowhere = await cli.run("worker", "app:jobs", "--health-port", "0", "--health-host", "192.0.2.1")
    assert nowhere.code == 1
    assert "cannot listen on 192.0.2.1 port 0: " in nowhere.err.splitlines()[-1]
    nobody = await cli.run("worker", "app:jobs", "--health-port", "0", "--health-host", "x..y")
    assert (nobody.code, nobody.err.count("not the name of a host")) == (1, 1)
    assert "Traceback" not in nobody.err
