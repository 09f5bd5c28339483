"""What the doctor says of shards, and of jobs that do not get on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

from nats.aio.client import Client
from nats.aio.msg import Msg

from deliveries import set_max_deliver
from diagnosis import becomes, ills, the_ill
from facts import eventually, is_processing
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.doctor.deployment import utc_now
from jsjobs.jetstream.api.consumers import pause_consumer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.lanes import Lane, Queue
from jsjobs.model.times import rfc3339

Make = Callable[..., JobService.Config]
Deploy = Callable[[JobService.Config], Awaitable[None]]


async def listen(plain: Client, namespace: str, shard: str, answer: bytes) -> list[Msg]:
    """Stand in a worker's place at one shard, and answer every delivery in the same way."""
    delivered: list[Msg] = []

    async def take(message: Msg) -> None:
        delivered.append(message)
        if answer:
            await plain.publish(message.reply, answer)

    subject = f"{namespace}.deliver.{shard.replace('-', '.')}"
    await plain.subscribe(subject, queue="workers", cb=take)
    await plain.flush()
    return delivered


async def test_pauses_of_a_priority(jobs: JobService) -> None:
    await jobs.pause("low")
    await jobs.pause("high", seconds=3600)
    high, low = (await ills(jobs.config))["paused"]
    assert (high.severity, low.severity) == (Severity.NOTE, Severity.NOTE)
    assert "paused until 20" in high.what
    assert "paused until you resume it; jobs waiting: 0" in low.what
    assert "jsjobs resume low" in low.remedy
    await jobs.submit("t", 1, priority="low", entity="e")
    _, low = (await ills(jobs.config))["paused"]
    assert low.severity is Severity.WARNING
    assert "jobs waiting: 1" in low.what
    await jobs.resume("low")
    await jobs.resume("high")
    assert "paused" not in await ills(jobs.config)


async def test_a_pause_of_one_shard_alone(jobs: JobService, connection: Connection) -> None:
    stream = Names(jobs.config.namespace).stream("high")
    until = {"pause_until": (utc_now() + timedelta(hours=1)).isoformat()}
    await call(connection, f"CONSUMER.PAUSE.{stream}.high-1x3-1", until)
    finding = await the_ill(jobs.config, "paused")
    assert finding.severity is Severity.WARNING
    assert "but only 1 of 7 shards and partitions: high-1x3-1; " in finding.what


async def test_jobs_without_a_worker(jobs: JobService) -> None:
    nobody = await the_ill(jobs.config, "workers")
    assert (nobody.severity, nobody.what) == (Severity.NOTE, "no worker is running; no job waits for one")
    await jobs.submit("t", 1, priority="low", entity="e")
    await jobs.submit("t", 2, priority="low", entity="e")
    at_once, later = await the_ill(jobs.config, "workers"), await becomes(jobs.config, "workers", Severity.PROBLEM)
    assert at_once.severity is Severity.WARNING
    assert later.where == "low-1x1-0"
    assert "no worker is running, and jobs wait: 2, the first for" in later.what
    assert "jsjobs worker" in later.remedy


async def test_a_pause_of_one_partition_alone(jobs: JobService, connection: Connection) -> None:
    stream = Names(jobs.config.namespace).queue(Queue(JobService.Priority.HIGH, Lane.PARALLEL))
    await pause_consumer(connection, stream, "high-parallel-2", utc_now() + timedelta(hours=1))
    finding = await the_ill(jobs.config, "paused")
    assert finding.severity is Severity.WARNING
    assert "but only 1 of 7 shards and partitions: high-parallel-2; " in finding.what


async def test_parallel_jobs_without_a_worker(jobs: JobService) -> None:
    await jobs.submit("t", [1, 2], priority="low")
    finding = await becomes(jobs.config, "workers", Severity.PROBLEM)
    assert finding.where == "low-parallel-0"
    assert "no worker is running, and jobs wait: 2, the first for" in finding.what


async def test_a_parallel_job_whose_worker_is_gone(jobs: JobService, plain: Client) -> None:
    stream = Names(jobs.config.namespace).queue(Queue(JobService.Priority.LOW, Lane.PARALLEL))
    subscription = await plain.jetstream().pull_subscribe_bind("low-parallel-0", stream)
    await jobs.submit("t", 1, priority="low")
    await subscription.fetch(1, timeout=5)
    await plain.close()
    finding = await becomes(jobs.config, "workers", Severity.PROBLEM)
    assert finding.where == "low-parallel-0"
    assert "no worker is running, and jobs wait: 1, the first for" in finding.what


async def test_a_partition_of_which_a_worker_asks_in_vain(
    jobs: JobService, plain: Client, connection: Connection
) -> None:
    """A request made during a pause stands there unanswered when the pause is lifted."""
    stream = Names(jobs.config.namespace).queue(Queue(JobService.Priority.LOW, Lane.PARALLEL))
    await pause_consumer(connection, stream, "low-parallel-0", utc_now() + timedelta(hours=1))
    await jobs.submit("t", 1, priority="low")
    inbox = plain.new_inbox()
    delivered: list[Msg] = []

    async def take(message: Msg) -> None:
        delivered.append(message)

    await plain.subscribe(inbox, cb=take)
    request = json.dumps({"batch": 1, "expires": 600 * 10**9}).encode()
    await plain.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.low-parallel-0", request, reply=inbox)
    await plain.flush()
    await call(connection, f"CONSUMER.PAUSE.{stream}.low-parallel-0", {})
    finding = await becomes(jobs.config, "stalled", Severity.PROBLEM)
    assert finding.where == "low-parallel-0"
    assert "jobs wait: 1" in finding.what
    assert not delivered
    await jobs.pause("low", seconds=1)
    await eventually(lambda: delivered)


async def test_full_workers_are_no_stall(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(concurrency=1)
    await deploy(config)
    async with JobService(config) as jobs:

        @jobs.handler("long")
        async def run_long(payload: int) -> None:
            await asyncio.sleep(600)

        async with jobs.worker():
            with jobs.request_context(tenant_id="acme"):
                first = await jobs.submit("long", 1, priority="low", duration="long")
            await eventually(lambda: is_processing(jobs, first))
            with jobs.request_context(tenant_id="globex"):
                waiting = await jobs.submit("long", 2, priority="low", duration="long")
            stored = (await jobs.status(waiting)).created_at
            assert stored is not None

            async def has_waited_long() -> bool:
                return (utc_now() - stored).total_seconds() > 2 * config.ack_wait

            await eventually(has_waited_long)
            assert not {"stalled", "workers"} & set(await ills(config))


async def test_a_job_whose_worker_is_gone(jobs: JobService, plain: Client) -> None:
    taken = await listen(plain, jobs.config.namespace, "low-1x1-0", b"")
    await jobs.submit("t", 1, priority="low", entity="e")
    await eventually(lambda: taken)
    await plain.close()
    finding = await becomes(jobs.config, "workers", Severity.PROBLEM)
    assert "no worker is running, and jobs wait: 1" in finding.what


async def test_shards_that_nobody_listens_to_while_others_work(jobs: JobService, plain: Client) -> None:
    await listen(plain, jobs.config.namespace, "low-1x1-0", b"+ACK")
    finding = await the_ill(jobs.config, "workers")
    assert (finding.severity, finding.what) == (Severity.WARNING, "no worker listens")
    assert "critical-1x4-0" in finding.where
    assert "low-1x1-0" not in finding.where


async def test_a_shard_that_stands_still(jobs: JobService, plain: Client, connection: Connection) -> None:
    """A pause that is merely lifted leaves a consumer with subscribers asleep."""
    stream = Names(jobs.config.namespace).stream("low")
    pausing = f"CONSUMER.PAUSE.{stream}.low-1x1-0"
    await call(connection, pausing, {"pause_until": (utc_now() + timedelta(hours=1)).isoformat()})
    delivered = await listen(plain, jobs.config.namespace, "low-1x1-0", b"+ACK")
    await jobs.submit("t", 1, priority="low", entity="e")

    async def has_heard_of_it() -> bool:
        return bool((await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0"))["num_pending"])

    await eventually(has_heard_of_it)  # and goes back to sleep, since it is paused
    await call(connection, pausing, {})
    finding = await becomes(jobs.config, "stalled", Severity.PROBLEM)
    assert finding.where == "low-1x1-0"
    assert "jobs wait: 1" in finding.what
    assert "`jsjobs pause low --for 5s`" in finding.remedy
    assert not delivered
    await jobs.pause("low", seconds=1)
    await eventually(lambda: delivered)
    assert "stalled" not in await ills(jobs.config)


async def test_a_failing_job_that_others_wait_behind_is_named(jobs: JobService) -> None:
    @jobs.handler("flaky", retry=JobService.Retry(max_retries=9, initial=600, max_backoff=6000))
    async def flaky(payload: int) -> None:
        raise RuntimeError("no luck")

    async with jobs.worker():
        first = await jobs.submit("flaky", 1, priority="low", entity="e")
        for _ in range(5):
            await jobs.submit("t", 2, priority="low", entity="e")
        finding = await becomes(jobs.config, "held", Severity.WARNING)
        status = await jobs.status(first)
        assert finding.where == "low-1x1-0"
        assert status.next_attempt_at is not None
        begun = next(item.timestamp for item in status.history if item.status == "processing")
        assert finding.what.startswith(
            f"{first} (flaky) has held it since {rfc3339(begun)}, has failed, and is tried again at "
            f"{rfc3339(status.next_attempt_at)}, attempt 2 of 10; jobs wait behind it: 5, the first for "
        )
        assert f"`jsjobs cancel {first}`" in finding.remedy
        assert "stalled" not in await ills(jobs.config)


async def test_a_long_job_that_others_wait_behind_is_named(jobs: JobService) -> None:
    @jobs.handler("long")
    async def run_long(payload: int) -> None:
        await asyncio.sleep(600)

    async with jobs.worker():
        first = await jobs.submit("long", 1, priority="low", entity="e", duration="long")
        await eventually(lambda: is_processing(jobs, first))
        assert "held" not in await ills(jobs.config)
        await jobs.submit("t", 2, priority="low", entity="e")
        finding = await becomes(jobs.config, "held", Severity.WARNING)
        assert f"{first} (long) has held it since " in finding.what
        assert "until attempt 1 of 3 ends, which began at " in finding.what


async def test_a_job_that_comes_back_again_and_again(settings_of: Make, deploy: Deploy, plain: Client) -> None:
    config = settings_of()
    await deploy(config)
    await set_max_deliver(config, 16)  # it is given up after a few seconds: a doctor must come by before that
    async with JobService(config) as jobs:
        delivered = await listen(
            plain, config.namespace, "low-1x1-0", b"-NAK " + json.dumps({"delay": 3 * 10**8}).encode()
        )
        fine, back = [await jobs.submit("t", number, priority="low", entity="e") for number in range(2)]
        await plain.jetstream().delete_msg(Names(config.namespace).stream("low"), int(fine.partition("-")[2]))
        finding = await becomes(config, "redelivery", Severity.WARNING)
    assert finding.where == "low-1x1-0"
    assert f"{back} was delivered" in finding.what
    assert "at 16 the server gives it up" in finding.what
    times = int(finding.what.split("delivered ")[1].split()[0])
    assert 8 <= times <= len([one for one in delivered if one.metadata.sequence.stream == int(back.partition("-")[2])])
    assert f"`jsjobs status {back}`" in finding.remedy


async def test_jobs_that_the_server_gave_up(settings_of: Make, deploy: Deploy, plain: Client) -> None:
    config = settings_of()
    await deploy(config)
    await set_max_deliver(config, 2)
    async with JobService(config) as jobs:
        delivered = await listen(plain, config.namespace, "low-1x1-0", b"-NAK")
        left = [await jobs.submit("t", number, priority="low", entity="e") for number in range(2)]
        await eventually(lambda: len(delivered) == 4)
        finding = await becomes(config, "given_up", Severity.PROBLEM)
        assert finding.where == "low-1x1-0"
        assert ", ".join(left) in finding.what
        assert "`jsjobs router`" in finding.remedy
        assert "redelivery" not in await ills(config)
        async with jobs.router():

            async def are_buried() -> bool:
                return "given_up" not in await ills(config)

            await eventually(are_buried)
