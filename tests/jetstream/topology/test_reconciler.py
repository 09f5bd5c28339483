import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import RetentionPolicy
from opened import opened

from facts import eventually
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import Generation, Names, Partition, Shard
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.generations import live_shards, read_live
from jsjobs.jetstream.topology.partitions import live_partitions
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.topology.stream_steps import clock_sequence
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status
from jsjobs.model.lanes import QUEUES, Lane, Queue
from jsjobs.resources import shipped
from jsjobs.settings import Config
from stream_facts import messages_in

Deploy = Callable[[Config], Awaitable[None]]
FILES = sorted(path.relative_to(shipped("streams")).as_posix() for path in shipped("streams").rglob("*.json"))


def topology(connection: Connection, config: Config) -> TopologyReconciler:
    return TopologyReconciler(connection, Names(config.namespace), config)


def actions(steps: list[Step]) -> set[str]:
    return {str(step.action) for step in steps}


@pytest.fixture
async def fresh(connection: Connection, config: Config, deploy: Deploy) -> AsyncIterator[TopologyReconciler]:
    """A namespace nothing was applied to; what a test applies is removed after it."""
    yield topology(connection, config)
    await deploy(config)


async def test_the_plan_on_an_empty_server_creates_all_andchanges_nothing(
    fresh: TopologyReconciler, connection: Connection, config: Config
) -> None:
    steps = await fresh.plan()
    assert actions(steps) == {"create"}
    kinds = [step.kind for step in steps]
    consumers = 4 + 3 + 2 + 1 + 4 * 4 + 8 + 1  # shards, partitions, sources, and that of the router
    assert (kinds.count("stream"), kinds.count("consumer"), kinds.count("generations")) == (12, consumers, 4)
    assert await find(connection, f"STREAM.INFO.KV_{config.namespace}") is None


async def test_apply_does_what_was_planned_and_then_nothing(
    fresh: TopologyReconciler, connection: Connection, config: Config
) -> None:
    planned = [(step.action, step.kind, step.name) for step in await fresh.plan()]
    assert [(step.action, step.kind, step.name) for step in await fresh.apply()] == planned
    assert actions(await fresh.plan()) == {"keep"}
    assert actions(await fresh.apply()) == {"keep"}
    names = Names(config.namespace)
    assert (await read_live(connection, names, Priority.HIGH)).generations == (Generation(1, 3),)
    shards = await live_shards(connection, names)
    assert {shard.consumer for shard in shards} == {
        f"{priority}-1x{count}-{number}" for priority, count in config.pools.items() for number in range(count)
    }
    partitions = await live_partitions(connection, names)
    assert {one.consumer for one in partitions} == {
        f"{priority}-parallel-{n}" for priority in Priority for n in range(4)
    }


async def test_ten_applies_at_once_are_fine(fresh: TopologyReconciler) -> None:
    ends = await asyncio.gather(*(fresh.apply() for _ in range(10)))
    assert len({len(steps) for steps in ends}) == 1
    assert actions(await fresh.plan()) == {"keep"}


@pytest.mark.parametrize(
    ("given", "kind", "key", "actual"),
    [
        ({"capacity": 77}, "stream", "max_msgs_per_subject", 77),
        ({"duplicate_window": 60}, "stream", "duplicate_window", 60 * 10**9),
        ({"queue_bytes": 2**24}, "stream", "max_bytes", 2**24),
        ({"lane_bytes": 2**24}, "stream", "max_bytes", 2**24),
        ({"ack_wait": 7}, "consumer", "ack_wait", 7 * 10**9),
        ({"max_deliver": 9000}, "consumer", "max_deliver", 9000),
    ],
)
async def test_a_changed_setting_is_updated_and_no_job_is_lost(
    settings_of: Callable[..., Config],
    deploy: Deploy,
    connection: Connection,
    given: Any,
    kind: str,
    key: str,
    actual: int,
) -> None:
    await deploy(settings_of())
    config = settings_of(**given)
    names, queue = Names(config.namespace), JobQueue(connection, Names(config.namespace))
    await queue.publish_batch([queue.job(Priority.HIGH, "e", "t", b"1")] * 20)
    await queue.publish_batch([queue.job(Priority.HIGH, None, "t", b"1")] * 20)
    steps = [step for step in await topology(connection, config).apply() if step.action is not Action.KEEP]
    assert {(step.action, step.kind, *step.changes) for step in steps} == {(Action.UPDATE, kind, key)}
    lane = names.queue(Queue(Priority.HIGH, Lane.PARALLEL))
    stream = lane if "lane_bytes" in given else names.stream("high")
    endpoint = f"STREAM.INFO.{stream}" if kind == "stream" else f"CONSUMER.INFO.{stream}.high-1x3-0"
    assert (await call(connection, endpoint))["config"][key] == actual
    for queue_of_it in (names.stream("high"), lane):
        assert await messages_in(connection, queue_of_it) == 20
    assert actions(await topology(connection, config).plan()) == {"keep"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"capacity": 19}, "20 jobs wait in one mailbox, more than the 19 asked for"),
        ({"queue_bytes": 2**20}, r"it holds \d+ bytes, more than the 1048576 asked for"),
    ],
)
async def test_what_would_lose_or_disorder_jobs_is_refused_and_nothing_is_changed(
    settings_of: Callable[..., Config], deploy: Deploy, connection: Connection, given: Any, reason: str
) -> None:
    await deploy(settings_of())
    config = settings_of(**given, max_deliver=9000)
    queue = JobQueue(connection, Names(config.namespace))
    await queue.publish_batch([queue.job(Priority.HIGH, "e", "t", b"x" * 60_000)] * 20)
    with pytest.raises(JobError, match=rf"nothing was changed, because .*{reason}") as caught:
        await topology(connection, config).apply()
    assert caught.value.reason is Reason.VALIDATION
    assert actions(await topology(connection, settings_of()).plan()) == {"keep"}
    assert "refuse" in actions(await topology(connection, config).plan())


@pytest.mark.parametrize(
    "foreign",
    [
        {"retention": RetentionPolicy.LIMITS, "subjects": ["{}.high.*.>"]},
        {"retention": RetentionPolicy.WORK_QUEUE, "subjects": ["something.{}"]},
    ],
    ids=["retention", "subjects"],
)
async def test_a_stream_of_that_name_that_is_not_ours_is_refused(
    fresh: TopologyReconciler, config: Config, plain: Client, foreign: dict[str, Any]
) -> None:
    name = Names(config.namespace).stream("high")
    subjects = [subject.format(config.namespace) for subject in foreign["subjects"]]
    await plain.jetstream().add_stream(name=name, **{**foreign, "subjects": subjects})
    try:
        with pytest.raises(JobError, match=f"nothing was changed, because .*{name}: its .* the server cannot change"):
            await fresh.apply()
    finally:
        await plain.jetstream().delete_stream(name)


async def test_a_queue_whose_jobs_no_shard_would_find_is_refused(
    fresh: TopologyReconciler, config: Config, plain: Client
) -> None:
    name, js = Names(config.namespace).stream("high"), plain.jetstream()
    subject = f"{config.namespace}.high.*.>"
    await js.add_stream(name=name, retention=RetentionPolicy.WORK_QUEUE, subjects=[subject])
    await js.publish(f"{config.namespace}.high.e.t", b"1")
    try:
        with pytest.raises(JobError, match="1 jobs wait on other subjects"):
            await fresh.apply()
    finally:
        await js.delete_stream(name)


async def test_namespaces_do_not_mix(
    settings_of: Callable[..., Config], deploy: Deploy, connection: Connection
) -> None:
    one, other = settings_of(), settings_of(namespace=f"{settings_of().namespace}-2")
    for config in (one, other):
        await deploy(config)
        queue = JobQueue(connection, Names(config.namespace))
        ids = await queue.publish_batch([queue.job(Priority.LOW, "e", "t", b"1")] * 3)
        await queue.publish(queue.job(Priority.LOW, None, "t", b"1"))
        assert len(ids) == 3
    for config in (one, other):
        names = Names(config.namespace)
        info = await call(connection, f"STREAM.INFO.{names.stream('low')}", {"subjects_filter": ">"})
        assert info["state"]["subjects"] == {f"{config.namespace}.work.low.1x1.0.t": 3}
        lane = names.queue(Queue(Priority.LOW, Lane.PARALLEL))
        info = await call(connection, f"STREAM.INFO.{lane}", {"subjects_filter": ">"})
        assert [subject.rpartition(".low.")[0] for subject in info["state"]["subjects"]] == [f"{config.namespace}.lane"]
        assert actions(await topology(connection, config).plan()) == {"keep"}


QUEUE_OF = {queue.name: queue for queue in QUEUES}


def derived(name: str, names: Names, config: Config) -> dict[str, Any]:
    """What the library declares for a shipped file."""
    base = name.removesuffix(".json").removeprefix("consumers/")
    if base == "router":
        return declaration.router_consumer(names)
    if base.startswith("source-"):
        return declaration.source_consumer(names, QUEUE_OF[base.removeprefix("source-")])
    if name.startswith("consumers/") and (partition := Partition.of(base)):
        return declaration.partition_consumer(config, names, partition)
    if name.startswith("consumers/"):
        priority, generation, number = base.split("-")
        return declaration.shard_consumer(
            config, names, Shard(Priority(priority), Generation.parse(generation), int(number))
        )
    if queue := QUEUE_OF.get(base.removeprefix("JOBS_").lower().replace("_", "-")):
        priority = queue.priority
        if queue.lane is Lane.PARALLEL:
            return declaration.lane_stream(config, names, priority)
        return declaration.queue_stream(config, names, priority, Generation(1, config.shards(priority)))
    side = {
        "KV_jobs": names.state_stream,
        "JOBS_PROGRESS": names.progress_stream,
        "JOBS_DEAD": names.dead_stream,
        "JOBS_SCHEDULE": names.schedule_stream,
    }
    return next(stream for stream in declaration.side_streams(config, names) if stream["name"] == side[base])


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_what_the_default_settings_mean(name: str) -> None:
    shown = json.loads((shipped("streams") / name).read_text())
    assert shown == derived(name, Names(), Config(nats_url="nats://x", namespace="jobs"))


@pytest.mark.parametrize("name", FILES)
def test_in_another_namespace_no_name_of_the_default_one_is_left(name: str) -> None:
    made = derived(name, Names("acme"), Config(nats_url="nats://x", namespace="acme"))
    made.pop("description")
    assert not re.search(r"jobs|JOBS", json.dumps(made))


def test_every_shard_has_its_file() -> None:
    config = Config(nats_url="nats://x")
    expected = {f"consumers/{p}-1x{config.shards(p)}-{n}.json" for p in Priority for n in range(config.shards(p))}
    lanes = {f"consumers/{p}-parallel-{n}.json" for p in Priority for n in range(config.partitions)}
    shared = {"consumers/router.json", *(f"consumers/source-{queue}.json" for queue in QUEUE_OF)}
    assert {name for name in FILES if name.startswith("consumers/")} == expected | lanes | shared
    for name in expected:  # what the order of jobs and their backoff rest on
        shard = json.loads((shipped("streams") / name).read_text())
        assert (shard["max_ack_pending"], shard["ack_policy"], shard["backoff"]) == (1, "explicit", [])
    for name in lanes:  # the server gives up none of their jobs, and bounds none
        one = json.loads((shipped("streams") / name).read_text())
        assert (one["max_ack_pending"], one["max_deliver"], one["ack_policy"]) == (-1, -1, "explicit")
        assert "deliver_subject" not in one


@pytest.mark.parametrize("queue", QUEUES, ids=QUEUE_OF)
def test_a_queue_takes_what_is_due_through_a_consumer_that_forgets_nothing(queue: Queue) -> None:
    """With one of the server's own making, what fired and waited for a full queue was lost at a restart."""
    config, priority = Config(nats_url="nats://x"), queue.priority
    ordered = declaration.queue_stream(config, Names(), priority, Generation(1, 3))
    stream = ordered if queue.lane is Lane.ORDERED else declaration.lane_stream(config, Names(), priority)
    [source] = stream["sources"]
    consumer = declaration.source_consumer(Names(), queue)
    own = {"name": consumer["durable_name"], "deliver_subject": consumer["deliver_subject"]}
    assert (source["name"], source["consumer"]) == (Names().schedule_stream, own)
    assert [one["src"] for one in source["subject_transforms"]] == [consumer["filter_subject"]]
    # Into the queue's own subjects, which it partitions itself: a changed shard count would source all of it again.
    prefix = f"jobs.{priority}" if queue.lane is Lane.ORDERED else f"jobs.parallel.{priority}"
    assert [one["dest"] for one in source["subject_transforms"]] == [f"{prefix}.{{{{wildcard(1)}}}}.>"]
    kept = {key: consumer[key] for key in ("ack_policy", "flow_control", "deliver_policy", "max_deliver")}
    assert kept == {"ack_policy": "flow_control", "flow_control": True, "deliver_policy": "all", "max_deliver": -1}
    assert consumer["idle_heartbeat"] > 0


async def test_the_shipped_files_make_a_server_as_they_stand(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config="jetstream { max_file_store: 100GB }") as server:
        client = await nats.connect(server.url)
        for name in FILES:
            body = json.loads((shipped("streams") / name).read_text())
            if name.startswith("consumers/"):
                continue
            reply = await client.request(f"$JS.API.STREAM.CREATE.{body['name']}", json.dumps(body).encode(), timeout=5)
            assert "error" not in json.loads(reply.data), name
        for name in (name for name in FILES if name.startswith("consumers/")):
            body = json.loads((shipped("streams") / name).read_text())
            first, second = f"{body['name']}-".split("-")[:2]
            queue = f"JOBS_{first.upper()}{'_PARALLEL' if second == 'parallel' else ''}"
            stream = {"router": "JOBS_DEAD", "source": "JOBS_SCHEDULE"}.get(first, queue)
            request = json.dumps({"stream_name": stream, "config": body}).encode()
            reply = await client.request(f"$JS.API.CONSUMER.CREATE.{stream}.{body['name']}", request, timeout=5)
            answer = json.loads(reply.data)
            if "error" in answer:  # with a filter the subject names it too
                subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{body['name']}"
                answer = json.loads((await client.request(subject, request, timeout=5)).data)
            assert "error" not in answer, (name, answer)
        await client.close()
        async with opened(server.url) as connection:
            steps = await topology(connection, Config(nats_url=server.url, namespace="jobs")).plan()
            assert {(step.action, step.kind) for step in steps if step.action is not Action.KEEP} == {
                (Action.CREATE, "generations")
            }


async def test_a_recreated_queue_gives_no_id_twice(
    connection: Connection, config: Config, names: Names, plain: Client
) -> None:
    bucket = await plain.jetstream().key_value(names.bucket)
    known = clock_sequence() + 10**12
    for job_id in (f"high-{known}", "high-5", f"high-parallel-{known + 3}", f"low-{known + 7}", f"at-{known + 9}"):
        await bucket.put(job_id, JobStatusResponse(job_id=job_id, status=Status.COMPLETE).to_json())
    first = {}
    lane = Queue(Priority.HIGH, Lane.PARALLEL)
    for floor in ({}, {Queue(Priority.HIGH): known + 10**6, lane: known + 10**6}):
        for name in ("high", "critical", "high_parallel"):
            await call(connection, f"STREAM.DELETE.{names.stream(name)}")
        await topology(connection, config).apply(floor)
        queue = JobQueue(connection, names)
        for priority, entity in ((Priority.HIGH, "e"), (Priority.HIGH, None), (Priority.CRITICAL, "e")):
            job_id = await queue.publish(queue.job(priority, entity, "t", b"1"))
            first[job_id.rpartition("-")[0], bool(floor)] = int(job_id.rpartition("-")[2])
    assert first["high", False] == known + 1
    assert first["high", True] == known + 10**6 + 1
    assert first["high-parallel", False] == known + 3 + 1
    assert first["high-parallel", True] == known + 10**6 + 1
    assert first["critical", False] < first["critical", True] < known


async def test_a_bucket_that_was_lost_is_made_again_beside_the_living_queues(
    settings_of: Callable[..., Config], deploy: Deploy, connection: Connection
) -> None:
    config = settings_of()
    await deploy(config)
    names, queue = Names(config.namespace), JobQueue(connection, Names(config.namespace))
    await queue.publish(queue.job(Priority.HIGH, "e", "t", b"1"))
    await call(connection, f"STREAM.DELETE.{names.state_stream}")
    steps = await topology(connection, config).apply()
    assert {step.name for step in steps if step.action is Action.CREATE} == {
        names.state_stream,
        *(names.topology_key(priority) for priority in Priority),
    }
    assert (await call(connection, f"STREAM.INFO.{names.stream('high')}"))["state"]["messages"] == 1


async def test_jobs_published_while_a_consumer_is_missing_are_delivered_once_it_is_back(
    connection: Connection, config: Config, names: Names
) -> None:
    taken: list[bytes] = []
    shard = Shard(Priority.LOW, Generation(1, 1), 0)

    def take(_subject: bytes, reply: bytes, _header: bytes, data: bytes) -> None:
        taken.append(data)
        connection.post(reply, b"+ACK")

    await connection.receive(names.deliver(shard).encode(), take, queue="workers")
    await call(connection, f"CONSUMER.DELETE.{names.stream('low')}.{shard.consumer}")
    queue = JobQueue(connection, names)
    await queue.publish_batch([queue.job(Priority.LOW, "e", "t", b"%d" % n) for n in range(10)])
    assert taken == []
    steps = await topology(connection, config).apply()
    assert [step.name for step in steps if step.action is Action.CREATE] == [shard.consumer]
    await eventually(lambda: len(taken) == 10)
    assert taken == [b"%d" % n for n in range(10)]


async def test_without_jetstream_the_error_says_so(tmp_path: Path) -> None:
    accounts = (
        "accounts { A { users: [{user: a, password: b}] }, S { users: [{user: s, password: s}] } }\nsystem_account: S"
    )
    with NatsServer(tmp_path, config=accounts) as server:
        async with opened(server.url.replace("//", "//a:b@")) as connection:
            with pytest.raises(JobError, match=r"(?i)jetstream .*not enabled.*account") as caught:
                await topology(connection, Config(nats_url=server.url)).plan()
            assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


async def test_a_queue_whose_jobs_can_expire_is_told_and_loses_none(
    settings_of: Callable[..., Config], deploy: Deploy, connection: Connection
) -> None:
    """The server never takes that setting away again, so the rest is applied, and whoever applies hears of it."""
    config = settings_of()
    await deploy(config)
    names, queue = Names(config.namespace), JobQueue(connection, Names(config.namespace))
    await queue.publish(queue.job(Priority.LOW, "e", "t", b"1"))
    stream = names.stream("low")
    info = await call(connection, f"STREAM.INFO.{stream}")
    await call(connection, f"STREAM.UPDATE.{stream}", {**info["config"], "allow_msg_ttl": True})

    async def told(**given: Any) -> Step:
        (step,) = [step for step in await topology(connection, settings_of(**given)).apply() if step.name == stream]
        return step

    kept = await told()
    assert kept.action is Action.KEEP
    assert "the server cannot turn it off" in kept.reason
    assert f"nats stream rm {stream}" in kept.reason
    updated = await told(capacity=77)
    assert (updated.action, set(updated.changes), updated.reason) == (
        Action.UPDATE,
        {"max_msgs_per_subject"},
        kept.reason,
    )
    info = await call(connection, f"STREAM.INFO.{stream}")
    assert (info["config"]["max_msgs_per_subject"], info["state"]["messages"]) == (77, 1)
    await call(connection, f"STREAM.DELETE.{stream}")
    assert [(await told()).action, (await told()).action] == [Action.CREATE, Action.KEEP]
    assert (await told()).reason == ""
    assert not (await call(connection, f"STREAM.INFO.{stream}"))["config"]["allow_msg_ttl"]
