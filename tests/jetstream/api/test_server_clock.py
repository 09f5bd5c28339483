"""Seconds count on the server's clock, whatever the publisher's says."""

import asyncio
import logging
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bare_environment import bare_environment
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

JSJOBS = str(Path(sys.executable).with_name("jsjobs"))


async def jsjobs(config: JobService.Config, off: int, *arguments: str) -> str:
    """Run a command on a machine whose clock is so many seconds off."""
    import libfaketime  # noqa: PLC0415 - of the extra `long`

    environment = bare_environment() | {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_NAMESPACE": config.namespace,
        "LD_PRELOAD": str(Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"),
        "FAKETIME": f"{off:+d}s",
        "DONT_FAKE_MONOTONIC": "1",
    }
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(JSJOBS, *arguments, env=environment, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(60):
        out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return out.decode().strip()


@pytest.mark.long
@pytest.mark.parametrize("off", [-60, 60, -86400])
async def test_a_publisher_whose_clock_is_wrong_delays_and_expires_as_it_says(jobs: JobService, off: int) -> None:
    ran: dict[str, datetime] = {}

    @jobs.handler("note")
    async def note(payload: int, ctx: JobService.Context) -> None:
        ran[ctx.job_id] = datetime.now(UTC)

    async with jobs.worker():
        asked = datetime.now(UTC)
        delayed = await jsjobs(jobs.config, off, "submit", "note", "1", "--delay", "3s")
        status = await jobs.status(delayed)
        expiring = await jsjobs(jobs.config, off, "submit", "note", "1", "--expires", "30s")
        moved = await jobs.submit("note", 1, delay=600)
        await jsjobs(jobs.config, off, "reschedule", moved, "--delay", "2s")
        await jobs.results([delayed, expiring, moved], timeout=30)
    assert delayed.startswith("at-")
    assert status.scheduled_for is not None
    assert timedelta(seconds=3) <= status.scheduled_for - asked < timedelta(seconds=30)
    assert ran[delayed] - asked >= timedelta(seconds=3)


async def test_the_servers_time_is_asked_for_once(jobs: JobService, plain: Client) -> None:
    asked = 0

    async def count(_: Msg) -> None:
        nonlocal asked
        asked += 1

    await plain.subscribe(f"$JS.API.STREAM.INFO.KV_{jobs.config.namespace}", cb=count)
    await plain.flush()
    for _ in range(3):
        await asyncio.gather(*(jobs.submit("t", number) for number in range(10)))
    assert asked == 0  # who says no time needs none
    await asyncio.gather(*(jobs.submit("t", number, delay=60, expires=60) for number in range(20)))
    await jobs.submit("t", [1, 2, 3], expires=60)
    await jobs.reschedule(await jobs.submit("t", 1, delay=60), delay=70)
    await plain.flush()
    assert asked == 1


LOW = """
authorization {
  users: [
    { user: all, password: pw }
    { user: low, password: pw, permissions: { publish: ["jobs.parallel.normal.*.>"], subscribe: ["_INBOX.>"] } }
  ]
}
"""


async def test_who_may_not_ask_for_the_time_takes_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer(tmp_path, config=LOW) as server, caplog.at_level(logging.INFO):
        given = {"nats_url": server.url, "nats_password": "pw", "queue_bytes": 2**24}
        config = JobService.Config(**given, nats_user="all")
        async with JobService(config) as all_rights, JobService(JobService.Config(**given, nats_user="low")) as low:
            await TopologyReconciler(all_rights.connection, Names("jobs"), config).apply()
            all_rights.register_handler("t", lambda payload: payload)
            ids = [await low.submit("t", number, expires=30) for number in range(3)]
            async with all_rights.worker():
                assert await all_rights.results(ids, timeout=20) == [0, 1, 2]
    assert "Violation" not in caplog.text
