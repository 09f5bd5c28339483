"""On a job's way nothing polls, and no row is locked."""

import asyncio
from collections import Counter

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.lanes import ORDERED, PARALLEL


async def test_jobs_go_their_way_with_nobody_asking_for_them_and_the_table_locked(
    jobs: JobService, plain: Client, connection: Connection, database_url: str
) -> None:
    asked: list[str] = []

    async def note(request: Msg) -> None:
        asked.append(request.subject)

    await plain.subscribe("$JS.API.>", cb=note)
    await plain.flush()

    @jobs.handler("t", retry=JobService.Retry(initial=0.05))
    async def run(payload: int, ctx: JobService.Context) -> int:
        if payload % 3 == 0 and ctx.attempt == 1:
            raise RuntimeError("once more")
        return payload

    locker = await asyncpg.connect(database_url)
    try:
        async with locker.transaction():
            await locker.execute("lock table jsjobs_data.job_dlq in access exclusive mode")
            async with jobs.worker(), jobs.router(), asyncio.timeout(30):
                ids = await jobs.submit("t", list(range(9)), entity="e")
                ids.append(await jobs.submit("t", 10, delay=0.5))
                assert await jobs.results(ids) == [*range(9), 10]
    finally:
        await locker.close()
    names = Names(jobs.config.namespace)
    streams = [names.queue(queue) for queue in ORDERED]
    await eventually(lambda: any(f"CONSUMER.LIST.{streams[0]}" in subject for subject in asked))
    requests = Counter(subject for subject in asked if "CONSUMER.MSG.NEXT" in subject and names.stream("") in subject)
    partitions = {f"{names.queue(queue)}.{queue.name}-{number}" for queue in PARALLEL for number in range(4)}
    # Of the shards nobody asks for jobs. At a partition one request waits, and another once that has brought its job.
    assert {subject.partition(".NEXT.")[2] for subject in requests} == partitions
    assert requests.total() == len(partitions) + 1
    for stream in streams:
        consumers = (await call(connection, f"CONSUMER.LIST.{stream}"))["consumers"]
        assert consumers
        assert all(one["config"].get("deliver_subject") for one in consumers), "the server pushes"
