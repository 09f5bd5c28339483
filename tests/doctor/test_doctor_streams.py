"""What the doctor says of streams: whether they are as declared, and how full they are."""

from collections.abc import Awaitable, Callable

from nats.aio.client import Client

from diagnosis import ills, the_ill
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

Make = Callable[..., JobService.Config]
Deploy = Callable[[JobService.Config], Awaitable[None]]


async def change(connection: Connection, stream: str, **settings: object) -> None:
    info = await call(connection, f"STREAM.INFO.{stream}")
    await call(connection, f"STREAM.UPDATE.{stream}", {**info["config"], **settings})


async def test_a_healthy_deployment_has_no_ills(jobs: JobService) -> None:
    @jobs.handler("t")
    async def run(payload: int) -> int:
        return payload

    async with jobs.worker(), jobs.router():
        assert await jobs.result(await jobs.submit("t", 1)) == 1
        found = await ills(jobs.config)
    # How much a single server with its default settings keeps is worth a note, and nothing else is.
    assert set(found) == {"sync"}
    assert {finding.severity for finding in found["sync"]} == {Severity.NOTE}


async def test_where_nothing_was_applied_one_finding_says_so(config: JobService.Config) -> None:
    found = await ills(config)
    assert set(found) == {"declared", "sync"}
    (finding,) = found["declared"]
    assert (finding.severity, finding.remedy) == (Severity.PROBLEM, "jsjobs streams apply")
    assert finding.where == f"namespace {config.namespace}"


async def test_what_is_missing_and_what_differs(jobs: JobService, connection: Connection) -> None:
    names, config = Names(jobs.config.namespace), jobs.config
    await call(connection, f"CONSUMER.DELETE.{names.stream('high')}.high-1x3-1")
    await call(connection, f"STREAM.DELETE.{names.progress_stream}")
    await change(connection, names.stream("low"), duplicate_window=10 * 10**9)
    found = await ills(config)
    said = {finding.where: (finding.severity, finding.what, finding.remedy) for finding in found["declared"]}
    apply = "jsjobs streams apply"
    assert said == {
        names.progress_stream: (Severity.PROBLEM, "it is missing", apply),
        "consumer high-1x3-1": (Severity.PROBLEM, "it is missing", apply),
        names.stream("low"): (
            Severity.WARNING,
            "it differs from the declaration: duplicate_window is 10000000000, not 120000000000",
            apply,
        ),
    }
    (short,) = found["duplicates"]
    assert (short.severity, short.where) == (Severity.NOTE, names.stream("low"))
    assert "remembered for 10 s" in short.what
    await TopologyReconciler(connection, names, config).apply()
    assert not {"declared", "duplicates"} & set(await ills(config))


async def test_a_backoff_on_a_shard_is_not_as_declared_and_taken_away(jobs: JobService, connection: Connection) -> None:
    names, config = Names(jobs.config.namespace), jobs.config
    stream = names.stream("low")
    info = await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0")
    body = {"stream_name": stream, "config": {**info["config"], "backoff": [2 * 10**9, 4 * 10**9]}, "action": "update"}
    await call(connection, f"CONSUMER.DURABLE.CREATE.{stream}.low-1x1-0", body)
    finding = await the_ill(config, "declared")
    assert (finding.severity, finding.where) == (Severity.WARNING, "consumer low-1x1-0")
    assert "backoff is [2000000000, 4000000000]" in finding.what
    await TopologyReconciler(connection, names, config).apply()
    assert "declared" not in await ills(config)
    assert "backoff" not in (await call(connection, f"CONSUMER.INFO.{stream}.low-1x1-0"))["config"]


async def test_a_queue_whose_jobs_a_publisher_can_let_expire(jobs: JobService, connection: Connection) -> None:
    stream = Names(jobs.config.namespace).stream("low")
    await change(connection, stream, allow_msg_ttl=True)
    finding = await the_ill(jobs.config, "declared")
    assert (finding.severity, finding.where) == (Severity.WARNING, stream)
    assert "allow_msg_ttl is true, and the server cannot turn it off" in finding.what
    assert "jsjobs streams apply" in finding.remedy


async def test_what_apply_would_refuse(jobs: JobService, settings_of: Make) -> None:
    for number in range(3):
        await jobs.submit("t", "x" * 500_000 + str(number), priority="low", entity="e")
    found = (await ills(settings_of(queue_bytes=2**20)))["declared"]
    (finding,) = [one for one in found if one.where == Names(jobs.config.namespace).stream("low")]
    assert finding.severity is Severity.PROBLEM
    assert "more than the 1048576 asked for" in finding.what
    assert "resolve that first" in finding.remedy


async def test_a_change_of_shards_that_is_not_finished(
    jobs: JobService, settings_of: Make, connection: Connection
) -> None:
    config = settings_of(pools={"low": 2})
    await jobs.submit("t", 1, priority="low", entity="e")
    await TopologyReconciler(connection, Names(config.namespace), config).apply(wait=False)
    found = await ills(config)
    (finding,) = found["change"]
    assert (finding.severity, finding.where) == (Severity.WARNING, "low")
    assert "from 1x1 to 2x2; jobs left in the old ones: 1: no worker listens" in finding.what
    assert "jsjobs streams apply" in finding.remedy
    assert "declared" not in found

    @jobs.handler("t")
    async def run(payload: int) -> int:
        return payload

    async with jobs.worker():
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
        assert "change" not in await ills(config)


async def test_another_shard_count_than_declared(jobs: JobService, settings_of: Make) -> None:
    finding = await the_ill(settings_of(pools={"low": 2}), "declared")
    assert (finding.where, finding.severity) == ("shards low", Severity.WARNING)
    assert finding.what == "the server has 1; JSJOBS_POOLS and JSJOBS_SCALE here ask for 2"
    assert finding.remedy == "if 2 is meant, `jsjobs streams apply` with these settings; if 1 is, set it here too"


async def test_what_nobody_here_asks_for_is_kept_and_said(
    settings_of: Make, deploy: Deploy, config: JobService.Config
) -> None:
    await deploy(settings_of(pools={"normal": 64}, capacity=500))
    found = (await ills(config))["declared"]
    assert {finding.severity for finding in found} == {Severity.NOTE}
    assert {finding.where: finding.what for finding in found} == {
        "shards normal": "the server has 64, which is kept; the default would be 2",
        "capacity": "the server has 500, which is kept; the default would be 1,000,000",
    }
    assert not any("streams apply" in finding.remedy for finding in found)
    assert any("JSJOBS_POOLS" in finding.remedy for finding in found)


async def test_entities_among_the_types(jobs: JobService, plain: Client) -> None:
    namespace = jobs.config.namespace
    stream = plain.jetstream()
    acks = [await stream.publish_async(f"{namespace}.low.customer.{number}.send", b"1") for number in range(1_001)]
    assert [(await ack).seq for ack in acks]
    finding = await the_ill(jobs.config, "types")
    assert (finding.severity, finding.where) == (Severity.WARNING, Names(namespace).stream("low"))
    assert "1,001 types" in finding.what
    assert "0.send" in finding.what
    assert f"{namespace}.low.<entity>.<type>" in finding.remedy


async def test_queues_that_are_nearly_full(settings_of: Make, deploy: Deploy) -> None:
    config = settings_of(capacity=5, queue_bytes=2**20)
    await deploy(config)
    async with JobService(config) as jobs:
        for number in range(4):
            await jobs.submit("t", number, priority="low", entity="e")
        almost = await the_ill(config, "capacity")
        await jobs.submit("t", 4, priority="low", entity="e")
        mailbox = await the_ill(config, "capacity")
        await jobs.submit("other", "x" * 850_000, priority="low", entity="e")
        _, bytes_of = sorted((await ills(config))["capacity"], key=lambda finding: finding.where, reverse=True)
    stream = Names(config.namespace).stream("low")
    assert (almost.severity, mailbox.severity, bytes_of.severity) == (
        Severity.WARNING,
        Severity.PROBLEM,
        Severity.WARNING,
    )
    assert "4 of 5 jobs of one shard and type" in almost.what
    assert mailbox.where == f"{stream}, {config.namespace}.work.low.1x1.0.t"
    assert "JSJOBS_CAPACITY" in mailbox.remedy
    assert bytes_of.where == stream
    assert "JSJOBS_QUEUE_BYTES" in bytes_of.remedy
