"""From the `failed` entry to the row, and what becomes of a job that no worker could end."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg

from deliveries import set_max_deliver
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.jobs.state_store import Conflict, Found, StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import Reason
from jsjobs.model.job import JobStatusResponse, Status, utc_now


async def stored_entry(plain: Client, namespace: str, job_id: str) -> RawStreamMsg:
    return await plain.jetstream().get_last_msg(f"KV_{namespace}", f"$KV.{namespace}.{job_id}")


async def messages(plain: Client, stream: str) -> int:
    return (await plain.jetstream().stream_info(stream)).state.messages


async def test_a_dead_jobs_entry_ages_only_once_its_row_is_there(jobs: JobService, plain: Client) -> None:
    namespace = jobs.config.namespace

    @jobs.handler("dies")
    async def dies(payload: int) -> None:
        raise JobService.Error.from_validation("dead")

    async with jobs.worker():
        job_id = await jobs.submit("dies", 1)

        async def has_letter() -> bool:
            return await messages(plain, f"{namespace.upper()}_DEAD") == 1

        await eventually(has_letter)
        before = await stored_entry(plain, namespace, job_id)
        assert "Nats-TTL" not in (before.headers or {})
        async with jobs.router():
            await eventually(lambda: jobs.dlq.find(job_id))

            async def aging() -> RawStreamMsg | None:
                entry = await stored_entry(plain, namespace, job_id)
                return entry if "Nats-TTL" in (entry.headers or {}) else None

            after = await eventually(aging)
    assert after.headers is not None
    assert after.headers["Nats-TTL"].removesuffix("s") == str(int(jobs.config.result_ttl))
    assert json.loads(after.data) == json.loads(before.data)
    assert (await jobs.status(job_id)).status == "failed"


async def test_a_dead_job_without_a_letter_gets_it_on_redelivery(jobs: JobService, plain: Client) -> None:
    runs = 0

    @jobs.handler("dies")
    async def dies(payload: int) -> None:
        nonlocal runs
        runs += 1

    store = StateStore(jobs.connection, Names(jobs.config.namespace))
    with jobs.request_context(tenant_id="acme"):
        job_id = await jobs.submit("dies", 5)
    # As a worker leaves it that crashes between the two writes.
    entry = (await jobs.status(job_id)).started(utc_now(), "a worker that crashed")
    dead = entry.failed(utc_now(), Reason.PROCESSING, "it broke")
    await store.write(dead, expected=0)
    async with jobs.worker(), jobs.router():
        letter = await eventually(lambda: jobs.dlq.find(job_id))

        async def is_gone() -> bool:
            return await messages(plain, f"{jobs.config.namespace.upper()}_NORMAL") == 0

        await eventually(is_gone)
    assert (letter.app_id, letter.payload, letter.error_reason, letter.attempts) == ("acme", b"5", "Processing", 1)
    assert [item["error"] for item in letter.error_history] == ["it broke"]
    assert runs == 0


async def test_a_buried_jobs_late_completion_is_refused(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    taken: list[Msg] = []

    async def take(message: Msg) -> None:
        taken.append(message)

    async with JobService(config) as jobs, jobs.router():
        store = StateStore(jobs.connection, Names(config.namespace))
        await plain.subscribe(f"{config.namespace}.deliver.low.1x1.0", queue="workers", cb=take)
        job_id = await jobs.submit("slow", 6, priority="low", entity="e")

        async def is_taken() -> bool:
            return bool(taken)

        await eventually(is_taken)
        # A worker that freezes in the middle of its handler.
        running = (await jobs.status(job_id)).started(utc_now(), "frozen")
        revision = await store.write(running, expected=0)
        letter = await eventually(lambda: jobs.dlq.find(job_id))
        late = await refused(store, running.completed(utc_now()), revision)
        assert isinstance(late, Conflict)
        status = await jobs.status(job_id)
        assert [item.status for item in status.history] == ["processing", "failed"]

        async def is_gone() -> bool:
            return await messages(plain, f"{config.namespace.upper()}_LOW") == 0

        await eventually(is_gone)
        await taken[0].ack()  # and its late ack harms nothing
        rows = await jobs.dlq.list()
    assert [row.id for row in rows] == [letter.id]
    assert (letter.error_reason, letter.attempts, len(letter.error_history)) == ("MaxRetries", 1, 1)


async def refused(store: StateStore, entry: JobStatusResponse, revision: int) -> BaseException | None:
    [outcome] = await asyncio.gather(store.write(entry, expected=revision), return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None


async def test_a_given_up_message_with_a_broken_header_block_keeps_its_bytes(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any]
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    blocks = [b"NATS/1.0", b"NATS/1.0\r\n", b"NATS/1.0\r\nJsjobs-Id: critical-1\r\nA\xff\r\n\r\n"]
    async with JobService(config) as jobs, jobs.router():
        connection = jobs.connection
        for shard in ("critical.1x4.0", "critical.1x4.1", "critical.1x4.2", "critical.1x4.3"):
            # Takes what comes, with this library's parser: nats-py's own would not survive it.
            subject = f"{config.namespace}.deliver.{shard}".encode()
            await connection.receive(subject, lambda *_: None, queue="workers")
        ids = {}
        for number, block in enumerate(blocks):
            subject = f"{config.namespace}.critical.e{number}.odd".encode()
            reply = await connection.ask(subject, b"\x00\xff", header=block)
            ids[f"critical-{json.loads(reply.data)['seq']}"] = block

        async def all_rows() -> bool:
            return len(await jobs.dlq.list()) == len(blocks)

        await eventually(all_rows)
        for letter in await jobs.dlq.list():
            assert letter.headers_raw == ids.pop(letter.original_job_id)
            assert (letter.payload, letter.type, letter.error_reason) == (b"\x00\xff", "odd", "MaxRetries")
        assert not ids


async def test_a_job_that_ended_as_the_server_gave_it_up_is_only_removed(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    async with JobService(config) as jobs, jobs.router():
        store = StateStore(jobs.connection, Names(config.namespace))
        await plain.subscribe(f"{config.namespace}.deliver.low.1x1.0", queue="workers", cb=ignore)
        job_id = await jobs.submit("slow", 6, priority="low", entity="e")
        running = (await jobs.status(job_id)).started(utc_now(), "it lost its connection after this")
        revision = await store.write(running, expected=0)
        await store.write(text_of(running.completed(utc_now()), b"7"), expected=revision, ttl=3600)

        async def is_gone() -> bool:
            return await messages(plain, f"{config.namespace.upper()}_LOW") == 0

        await eventually(is_gone)
        assert await jobs.result(job_id) == 7
        assert await jobs.dlq.list() == []
        found = await store.read(job_id)
    assert isinstance(found, Found)
    assert found.entry is not None
    assert found.entry.status is Status.COMPLETE


async def ignore(message: Msg) -> None:
    """Never answers."""
