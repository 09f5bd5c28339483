"""The main job, end to end: one raw publish to its end, and one dead job to its row and back."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService


async def test_a_raw_publish_without_any_header_completes(jobs: JobService, plain: Client) -> None:
    @jobs.handler("echo")
    async def echo(payload: dict[str, int]) -> dict[str, int]:
        return payload

    receipt = await plain.jetstream().publish(f"{jobs.config.namespace}.critical.customer-1.echo", b'{"n": 1}')
    job_id = f"critical-{receipt.seq}"
    assert (await jobs.status(job_id)).status == "queued"
    async with jobs.worker():
        assert await jobs.result(job_id) == {"n": 1}
    shown = json.loads(await command_line(jobs, "status", job_id, "--json"))
    assert (shown["status"], shown["result"]) == ("complete", {"n": 1})
    assert [item["status"] for item in shown["history"]] == ["processing", "complete"]
    status = await jobs.status(job_id)
    assert (status.entity, status.attempts, status.type) == (None, 1, "echo")


async def command_line(jobs: JobService, *arguments: str) -> bytes:
    """What the installed `jsjobs` prints."""
    server = ["--nats-url", jobs.config.nats_url, "--namespace", jobs.config.namespace]
    executable = Path(sys.executable).with_name("jsjobs")
    process = await asyncio.create_subprocess_exec(executable, *arguments, *server, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed


async def test_plain_clients_read_and_watch_the_state(jobs: JobService, plain: Client) -> None:
    @jobs.handler("echo")
    async def echo(payload: str) -> str:
        return payload

    bucket = await plain.jetstream().key_value(jobs.config.namespace)
    watcher = await bucket.watchall()
    job_id = await jobs.submit("echo", "hello")
    async with jobs.worker():
        await jobs.result(job_id)
    entry = await bucket.get(job_id)
    assert json.loads(entry.value)["result"] == "hello"
    seen = []
    while "complete" not in seen:
        update = await watcher.updates(timeout=5)
        if update is not None and update.key == job_id:
            seen.append(json.loads(update.value)["status"])
    assert seen == ["processing", "complete"]
    await watcher.stop()


async def test_a_job_that_always_fails_gets_one_row_and_can_be_replayed_once(jobs: JobService) -> None:
    healed = False

    @jobs.handler("email.send")
    async def send(payload: dict[str, int]) -> str:
        if not healed:
            raise ValueError(f"no mail server for {payload['n']}")
        return "sent"

    with jobs.request_context(tenant_id="acme"):
        job_id = await jobs.submit("email.send", {"n": 7}, entity="customer-42")
    async with jobs.worker(), jobs.router():
        with pytest.raises(JobService.Error, match="no mail server for 7") as caught:
            await jobs.result(job_id)
        assert caught.value.reason == "MaxRetries"
        letter = await eventually(lambda: jobs.dlq.find(job_id))
        assert letter.app_id == "acme"
        assert letter.error_reason == "MaxRetries"
        assert len(letter.error_history) == letter.attempts == 3
        assert letter.payload == b'{"n":7}'
        healed = True
        new_id = await jobs.replay(str(letter.id))
        assert new_id == f"replay-1-{letter.id}"
        assert await jobs.result(new_id) == "sent"
    status = await jobs.status(new_id)
    assert (status.entity, status.tenant) == ("customer-42", "acme")
    assert [item.status for item in status.history] == ["queued", "processing", "complete"]
