"""What the doctor says of the parallel lanes."""

from collections.abc import Awaitable, Callable

from nats.aio.client import Client

from diagnosis import becomes, ills, the_ill
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

Make = Callable[..., JobService.Config]
Deploy = Callable[[JobService.Config], Awaitable[None]]
LAST = Partition(Priority.LOW, 3)


async def test_missing_and_faulty_partitions(jobs: JobService, connection: Connection) -> None:
    names, config = Names(jobs.config.namespace), jobs.config
    stream = names.queue(LAST.queue)
    await call(connection, f"CONSUMER.DELETE.{stream}.{LAST.consumer}")
    info = await call(connection, f"CONSUMER.INFO.{stream}.low-parallel-1")
    changed = {**info["config"], "max_ack_pending": 5}
    request = {"stream_name": stream, "config": changed, "action": "update"}
    await call(connection, f"CONSUMER.CREATE.{stream}.low-parallel-1", request)
    found = {finding.where: (finding.severity, finding.what) for finding in (await ills(config))["declared"]}
    assert found == {
        "consumer low-parallel-3": (Severity.PROBLEM, "it is missing"),
        "consumer low-parallel-1": (
            Severity.WARNING,
            "it differs from the declaration: max_ack_pending is 5, not -1",
        ),
    }
    await TopologyReconciler(connection, names, config).apply()
    assert "declared" not in await ills(config)


async def test_another_number_of_partitions(jobs: JobService, settings_of: Make, connection: Connection) -> None:
    fewer = settings_of(partitions=2)
    found = (await ills(fewer))["declared"]
    assert {finding.what for finding in found} == {"it differs from the declaration: partitions is 4, not 2"}
    for number in range(20):
        with jobs.request_context(tenant_id=f"tenant-{number}"):
            await jobs.submit("t", number, priority="low")
    await TopologyReconciler(connection, Names(fewer.namespace), fewer).apply()
    found = (await ills(fewer))["declared"]
    assert {finding.severity for finding in found} == {Severity.NOTE}
    told = {finding.where: finding.what for finding in found}
    assert "new jobs do not go to this partition any more; " in told["consumer low-parallel-3"]
    assert "must end first" in told["consumer low-parallel-3"]
    lane = Names(fewer.namespace).queue(Partition(Priority.HIGH, 0).queue)
    assert told[lane].endswith("hold none: high-parallel-2, high-parallel-3")


async def test_jobs_that_are_due_and_find_their_lane_full(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(capacity=1, ack_wait=1)
    await deploy(config)
    async with JobService(config) as jobs:
        await jobs.submit("t", 1, priority="low")
        await jobs.submit("t", 2, priority="low", delay=0.1)
        finding = await becomes(config, "due", Severity.PROBLEM)
        assert finding.where == "low-parallel"
        assert "its queue does not take due jobs: 1," in finding.what
        mailbox = await the_ill(config, "capacity")
        assert "1 of 1 jobs of one partition and type" in mailbox.what


async def test_lanes_that_are_nearly_full(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(lane_bytes=2**20)
    await deploy(config)
    async with JobService(config) as jobs:
        await jobs.submit("t", "x" * 850_000, priority="low")
        finding = await the_ill(config, "capacity")
    assert finding.where == Names(config.namespace).queue(LAST.queue)
    assert "JSJOBS_LANE_BYTES" in finding.remedy


async def test_keys_among_the_types(jobs: JobService, plain: Client) -> None:
    namespace, stream = jobs.config.namespace, plain.jetstream()
    subject = f"{namespace}.parallel.low.customer"
    acks = [await stream.publish_async(f"{subject}.{number}.send", b"1") for number in range(1_001)]
    assert [(await ack).seq for ack in acks]
    finding = await the_ill(jobs.config, "types")
    assert (finding.severity, finding.where) == (Severity.WARNING, Names(namespace).queue(LAST.queue))
    assert f"{namespace}.parallel.low.<key>.<type>" in finding.remedy


async def test_jobs_of_a_lane_without_a_worker(jobs: JobService) -> None:
    await jobs.submit("t", 1, priority="low")
    finding = await becomes(jobs.config, "workers", Severity.PROBLEM)
    assert finding.where.startswith("low-parallel-")
    assert "no worker is running, and jobs wait: 1, the first for" in finding.what
