"""A dead job's message, and its letter, go only after what follows them is stored: else an outage then loses the job."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.postgres.errors import DatabaseUnavailable
from router_parts import cleaner_of, recorder_of

LANE = Queue(Priority.NORMAL, Lane.PARALLEL)
Deploy = Callable[[JobService.Config], Awaitable[None]]


class Deployment:
    """Its streams, which may be away, and a handler whose jobs die."""

    def __init__(self, jobs: JobService, plain: Client, deploy: Deploy) -> None:
        self.jobs = jobs
        self.names = Names(jobs.config.namespace)
        self._stream = plain.jetstream()
        self._deploy = deploy

        @jobs.handler("dies")
        async def dies(_: object) -> None:
            raise JobService.Error.from_validation("it shall die")

    async def messages(self, stream: str) -> int:
        return (await self._stream.stream_info(stream)).state.messages

    async def is_empty(self, stream: str) -> bool:
        return await self.messages(stream) == 0

    async def take_letters_away(self) -> None:
        await self._stream.delete_stream(self.names.dead_stream)

    async def bring_letters_back(self) -> None:
        await self._deploy(self.jobs.config)


@pytest.fixture
def deployment(jobs: JobService, plain: Client, deploy: Deploy) -> Deployment:
    return Deployment(jobs, plain, deploy)


@pytest.fixture
def without_postgres(settings_of: Callable[..., JobService.Config]) -> JobService:
    """A service of the same namespace, whose Postgres does not answer."""
    return JobService(settings_of(database_url="postgresql://nobody@127.0.0.1:1/away"))


def letters_that_wait(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().startswith("the dead-letter message of ") for record in caplog.records)


async def test_a_dead_job_s_message_stays_until_its_letter_is_stored(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="jsjobs.letters")
    jobs, queue, letters = deployment.jobs, deployment.names.queue(LANE), deployment.names.dead_stream
    await deployment.take_letters_away()
    async with jobs.worker():
        job_id = await jobs.submit("dies")

        async def is_refused_or_gone() -> bool:
            return letters_that_wait(caplog) >= 3 or await deployment.is_empty(queue)

        await eventually(is_refused_or_gone)
        assert (await jobs.status(job_id)).status == "failed"
        assert await deployment.messages(queue) == 1
        await deployment.bring_letters_back()
        await eventually(lambda: deployment.is_empty(queue))
        assert await deployment.messages(letters) == 1


async def test_a_dead_job_s_message_stays_while_there_is_no_room_for_its_letter(
    deployment: Deployment, plain: Client
) -> None:
    jobs, queue, letters = deployment.jobs, deployment.names.queue(LANE), deployment.names.dead_stream
    stream = plain.jetstream()
    declared = (await stream.stream_info(letters)).config
    await stream.update_stream(declared.evolve(max_bytes=1))
    async with jobs.worker() as worker:
        job_id = await jobs.submit("dies")

        async def is_refused_or_gone() -> bool:
            return "maximum bytes exceeded" in worker.why_not_ready or await deployment.is_empty(queue)

        await eventually(is_refused_or_gone)
        assert (await jobs.status(job_id)).status == "failed"
        assert await deployment.messages(queue) == 1
        await stream.update_stream(declared)
        await eventually(lambda: deployment.is_empty(queue))
        assert await deployment.messages(letters) == 1


async def test_a_letter_stays_until_its_row_is_stored(deployment: Deployment, without_postgres: JobService) -> None:
    jobs, letters = deployment.jobs, deployment.names.dead_stream
    async with jobs.worker():
        job_id = await jobs.submit("dies")
        await eventually(lambda: _is(deployment.messages, letters, 1))
    async with without_postgres, without_postgres.router() as router:

        async def is_refused_or_gone() -> bool:
            return "is not available" in router.trouble or await deployment.is_empty(letters)

        await eventually(is_refused_or_gone)
        assert await deployment.messages(letters) == 1
    async with jobs.router():
        assert (await eventually(lambda: jobs.dlq.find(job_id))).error_reason == "Validation"
        await eventually(lambda: deployment.is_empty(letters))


async def test_a_given_up_message_stays_until_its_row_is_stored(
    deployment: Deployment, without_postgres: JobService
) -> None:
    jobs, queue = deployment.jobs, deployment.names.stream("low")
    job_id = await jobs.submit("dies", priority="low", entity="e")
    given_up = queue, int(job_id.partition("-")[2]), f"{jobs.config.namespace}.work.low.>"
    async with without_postgres:
        with pytest.raises(DatabaseUnavailable):
            await recorder_of(without_postgres).dead_letter(*given_up)
    assert (await jobs.status(job_id)).status == "failed"
    assert await deployment.messages(queue) == 1
    await recorder_of(jobs).dead_letter(*given_up)
    assert (await jobs.dlq.find(job_id)).error_reason == "MaxRetries"
    assert await deployment.messages(queue) == 0


async def test_what_is_due_and_no_queue_takes_stays_until_its_letter_is_stored(
    deployment: Deployment, plain: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="jsjobs.letters")
    names, fired = deployment.names, cleaner_of(deployment.jobs)
    await plain.jetstream().publish(f"{names.namespace}.due.nope.x.y", b"7")
    await deployment.take_letters_away()
    await fired.clear()  # found once; the next pass dead-letters it
    clearing = asyncio.ensure_future(fired.clear())
    await eventually(lambda: letters_that_wait(caplog) >= 3 or clearing.done())
    assert await deployment.messages(names.schedule_stream) == 1
    await deployment.bring_letters_back()
    await clearing
    assert await deployment.messages(names.schedule_stream) == 0
    assert await deployment.messages(names.dead_stream) == 1


async def _is(count: Callable[[str], Awaitable[int]], stream: str, expected: int) -> bool:
    return await count(stream) == expected
