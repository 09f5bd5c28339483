"""What a worker makes of requests to stop a job, whoever sends them and however often."""

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import may_be_answered

Status = JobService.Status


async def cancelled(jobs: JobService, job_id: str) -> None:
    async def is_so() -> bool:
        return (await jobs.status(job_id)).status is Status.CANCELLED

    await eventually(is_so)


async def test_a_handler_that_cleans_up_is_not_interrupted_again_by_further_requests(
    jobs: JobService, plain: Client
) -> None:
    ended: list[str] = []
    started, may_end = asyncio.Event(), asyncio.Event()

    @jobs.handler("cleans-up")
    async def cleans_up(_: None) -> None:
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            try:
                await may_end.wait()
                ended.append("cleaned up")
            except asyncio.CancelledError:
                ended.append("interrupted again")

    async with jobs.worker():
        job_id = await jobs.submit("cleans-up", None, duration="long")
        await started.wait()
        for _ in range(5):
            answer = await plain.request(f"{jobs.config.namespace}.cancel.{job_id}", b"", timeout=20)
            assert b"worker" in answer.data
        may_end.set()
        await cancelled(jobs, job_id)
    assert ended == ["cleaned up"]


async def test_a_worker_answers_on_no_subject_that_is_the_servers_or_the_namespaces(
    jobs: JobService, plain: Client
) -> None:
    name = jobs.config.namespace
    started = asyncio.Queue[None]()
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    @jobs.handler("sleep")
    async def sleep(_: None) -> None:
        started.put_nowait(None)
        await asyncio.sleep(60)

    # An answer there would be an entry, a job, a request to the server.
    hostile = [f"$KV.{name}.low-17", f"{name}.normal.e.sleep", f"$JS.API.STREAM.PURGE.{name.upper()}_LOW"]
    async with jobs.worker():
        for reply in hostile:
            await plain.subscribe(reply, cb=hear)
            job_id = await jobs.submit("sleep", None, duration="long")
            await started.get()
            await plain.publish(f"{name}.cancel.{job_id}", b"\xff" * 100_000, reply=reply)
            await cancelled(jobs, job_id)
        await plain.flush()
    assert heard == []


async def test_a_worker_answers_for_no_job_that_it_does_not_run(jobs: JobService, plain: Client) -> None:
    """Its answer says that the job is being stopped."""
    name, heard = jobs.config.namespace, asyncio.Queue[str]()

    async def hear(message: Any) -> None:
        heard.put_nowait(message.subject.rpartition(".")[2])

    await plain.subscribe("_INBOX.asked.*", cb=hear)
    started = asyncio.Event()

    @jobs.handler("sleep")
    async def sleep(_: None) -> None:
        started.set()
        await asyncio.sleep(60)

    ran = await jobs.submit("note")
    jobs.register_handler("note", lambda payload: payload)
    async with jobs.worker():
        await jobs.result(ran)
        runs = await jobs.submit("sleep", None, duration="long")
        await started.wait()
        for other in (ran, "normal-17", "at-unknown", "anybody"):
            await plain.publish(f"{name}.cancel.{other}", b"", reply="_INBOX.asked.other")
        # Requests are taken one after the other.
        await plain.publish(f"{name}.cancel.{runs}", b"", reply="_INBOX.asked.own")
        async with asyncio.timeout(20):
            assert await heard.get() == "own"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"_INBOX.a.b", True),
        (b"jobsx.a", True),
        (b"", False),
        (b"$KV.jobs.normal-1", False),
        (b"jobs.normal.e.t", False),
        (b"_INBOX.*", False),
        (b"_INBOX.>", False),
    ],
)
def test_which_reply_subjects_are_answered(reply: bytes, *, expected: bool) -> None:
    assert may_be_answered(reply, "jobs") is expected


async def test_a_handler_that_fails_in_being_stopped_is_not_said_to_be_dead_or_tried_again(
    jobs: JobService, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    @jobs.handler("fails")
    async def fails(_: None) -> None:
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            raise JobService.Error.from_validation("the clean-up failed")

    async with jobs.worker():
        job_id = await jobs.submit("fails", None, duration="long")
        await started.wait()
        assert (await jobs.cancel(job_id)).status is Status.CANCELLED
    told = [record for record in caplog.records if "the clean-up failed" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert f"job {job_id} (fails): its handler failed while it was being stopped" in told[0].getMessage()
