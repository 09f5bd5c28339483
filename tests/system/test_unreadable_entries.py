"""An entry that cannot be read costs its own job alone, within a bounded time, and is told of."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from nats.aio.client import Client

from deliveries import set_max_deliver
from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names

UNREADABLE = {
    "garbage": b"\x00garbage",
    "no object": b"[]",
    "wrong types": b'{"job_id": "%b", "status": "queued", "attempts": "many"}',
    "a status of a later version": b'{"job_id": "%b", "status": "sleeping"}',
    "another job's": b'{"job_id": "low-1", "status": "queued"}',
    "dead, and without a letter": b'{"job_id": "%b", "status": "failed", "attempts": []}',
}


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


async def put(plain: Client, jobs: JobService, job_id: str, value: bytes) -> None:
    bucket = await plain.jetstream().key_value(Names(jobs.config.namespace).bucket)
    await bucket.put(job_id, value.replace(b"%b", job_id.encode()))


async def expires(jobs: JobService, job_id: str) -> bool:
    found = await state_of(jobs).read(job_id)
    return found is not None and found.expires


async def queued(jobs: JobService) -> int:
    info = await call(jobs.connection, f"STREAM.INFO.{Names(jobs.config.namespace).stream('low')}")
    return int(info["state"]["messages"])


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("kind", ["plain", "delayed"])
async def test_its_job_is_a_dead_letter_and_the_shard_goes_on(
    what: str, kind: str, jobs: JobService, plain: Client
) -> None:
    ran: list[Any] = []
    jobs.register_handler("t", ran.append)
    delay = 0.2 if kind == "delayed" else None
    job_id = await jobs.submit("t", "x", priority="low", entity="e", delay=delay)
    await put(plain, jobs, job_id, UNREADABLE[what])
    key = rf"\$KV\.{jobs.config.namespace}\.{job_id} cannot be read"
    for asked in (jobs.status, jobs.cancel, jobs.result):
        with pytest.raises(JobService.Error, match=key):
            await asked(job_id)
    if delay is not None:
        await eventually(lambda: queued(jobs))
    behind = await jobs.submit("t", "y", priority="low", entity="e")
    async with jobs.worker(), jobs.router():
        await jobs.result(behind, timeout=15)
        status = await eventually(lambda: jobs.status(job_id))
        assert (status.status, status.error_reason, status.type) == ("failed", "Validation", "t")
        [letter] = await eventually(jobs.dlq.list)
        assert (letter.original_job_id, letter.payload, letter.type, letter.entity) == (job_id, b'"x"', "t", "e")
        assert "cannot be read" in (letter.error_history[-1]["error"] or "")
        await eventually(lambda: expires(jobs, job_id))
        with pytest.raises(JobService.Error, match="already dead"):
            await jobs.cancel(job_id)
        assert ran == ["y"]
        await jobs.result(await jobs.replay(str(letter.id)))
    assert ran == ["y", "x"]
    await eventually(lambda: is_empty(jobs))


@pytest.mark.parametrize("status", ["complete", "cancelled"])
async def test_an_end_that_another_version_wrote_stands(status: str, jobs: JobService, plain: Client) -> None:
    ran: list[Any] = []
    jobs.register_handler("t", ran.append)
    job_id = await jobs.submit("t", "x", priority="low", entity="e")
    value = b'{"job_id": "%%b", "status": "%b", "attempts": {"made": 1}}' % status.encode()
    await put(plain, jobs, job_id, value)
    async with jobs.worker(), jobs.router():
        await jobs.result(await jobs.submit("t", "y", priority="low", entity="e"))
        await eventually(lambda: is_empty(jobs))
        assert await jobs.dlq.list() == []
    assert ran == ["y"]
    with pytest.raises(JobService.Error, match=f"the job is {status}; another version of jsjobs"):
        await jobs.status(job_id)


async def test_a_running_job_whose_entry_is_overwritten_ends_as_a_dead_letter(jobs: JobService, plain: Client) -> None:
    at_work, ended = asyncio.Event(), asyncio.Event()

    @jobs.handler("t")
    async def hang(payload: object) -> None:
        at_work.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    job_id = await jobs.submit("t", "x", priority="low", duration="long")
    async with jobs.worker(), jobs.router():
        await at_work.wait()
        await put(plain, jobs, job_id, b"garbage")
        async with asyncio.timeout(15):
            await ended.wait()
        [letter] = await eventually(jobs.dlq.list)
    assert (letter.original_job_id, letter.error_reason) == (job_id, "Validation")


async def test_a_router_buries_what_the_server_gave_up_though_its_entry_cannot_be_read(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Any], plain: Client
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    async with JobService(config) as jobs:
        job_id = await jobs.submit("t", "x", priority="low", entity="e")
        await put(plain, jobs, job_id, b"garbage")
        deliver = f"{config.namespace}.deliver.low.1x1.0"

        async def ignore(_: object) -> None:
            """As a worker that dies of it each time."""

        await plain.subscribe(deliver, queue="workers", cb=ignore)
        async with jobs.router() as router:
            [letter] = await eventually(jobs.dlq.list)
            await eventually(lambda: expires(jobs, job_id))
            assert not router.trouble
        assert (letter.original_job_id, letter.error_reason) == (job_id, "Validation")
        await eventually(lambda: is_empty(jobs))
        assert (await jobs.status(job_id)).status == "failed"


@pytest.mark.long
async def test_a_letter_is_stored_though_its_entry_was_overwritten(jobs: JobService, plain: Client) -> None:
    @jobs.handler("t")
    async def fail(payload: object) -> None:
        raise JobService.Error.from_validation("no")

    job_id = await jobs.submit("t", "x", priority="low", entity="e")
    async with jobs.worker():
        await eventually(lambda: is_failed(jobs, job_id))
        await eventually(lambda: is_empty(jobs))
    await put(plain, jobs, job_id, b"garbage")
    async with jobs.router():
        [letter] = await eventually(jobs.dlq.list)
        await eventually(lambda: expires(jobs, job_id))
    assert (letter.original_job_id, letter.payload) == (job_id, b'"x"')
    assert (await jobs.status(job_id)).status == "failed"


async def is_failed(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).status == "failed"


async def is_empty(jobs: JobService) -> bool:
    return await queued(jobs) == 0
