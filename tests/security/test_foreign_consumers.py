"""Consumers that nobody declared: named by doctor, told by plan and removed by apply where messages go to one consumer each."""

import asyncio
import json
from collections.abc import Callable

import pytest
from commands import commands
from nats.aio.client import Client
from secured import api, delete_consumer, environment, make_consumer, plain_client, remake_consumer

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.plan import Action
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")


@pytest.mark.long
async def test_a_router_that_uses_up_the_accounts_consumers_is_cleared_away(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker() as at_work,
    ):
        made = 0
        while "error" not in await make_consumer(
            hostile, "JOBS_LOW", f"fill-{made}", {"filter_subject": f"jobs.work.low.9x9.{made}.>"}
        ):
            made += 1
        assert made > 500
        await delete_consumer(hostile, "JOBS_LOW", "low-1x1-0")
        last = {"filter_subject": "jobs.work.low.9x9.x"}
        assert "error" not in await make_consumer(hostile, "JOBS_LOW", "fill-last", last)
        job = await operator.submit("echo", 1, priority="low", entity="e")
        env = environment(config)
        examined, planned = await commands((env, ("doctor", "--json")), (env, ("streams", "plan", "--json")))
        findings = json.loads(examined.out)["findings"]
        found = {one["check"]: one for one in findings if one["where"] == "JOBS_LOW"}
        assert "consumers that are not declared: fill-0, fill-1, fill-10" in found["declared"]["what"]
        assert found["declared"]["remedy"] == "jsjobs streams apply"
        assert found["consumers"]["what"].startswith("600 of 600 consumers are used")
        steps = [step for step in json.loads(planned.out) if step["action"] == "delete"]
        assert [(step["kind"], step["name"]) for step in steps] == [("consumers", "JOBS_LOW")]
        assert f"and {made + 1 - 5:,} more" in steps[0]["reason"]
        [applied] = await commands((env, ("streams", "apply")))
        assert applied.code == 0, applied.err
        assert await operator.result(job, timeout=20) == 1
        await eventually(lambda: at_work.ready)
        assert {step.action for step in await TopologyReconciler(operator.connection, NAMES, config).plan()} == {
            Action.KEEP
        }


async def test_one_that_holds_the_place_of_a_shard_gives_it_back(as_user: Settings) -> None:
    """A queue has one consumer for a subject: as long as another has a shard's, that cannot be made again."""
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        for name in ("mine", "low-7x7-3", "low-1x1-9", "high-1x3-0"):
            await delete_consumer(hostile, "JOBS_LOW", "low-1x1-0")
            its_place = {"filter_subject": "jobs.work.low.1x1.0.>", "max_ack_pending": 1}
            assert "error" not in await make_consumer(hostile, "JOBS_LOW", name, its_place)
            job = await operator.submit("echo", name, priority="low", entity="e")
            await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
            assert await operator.result(job, timeout=20) == name


async def test_who_only_looks_on_is_left_alone(as_user: Settings) -> None:
    """Watchers of entries, followers of progress, durables and passing ones, and the consumers of a change under way."""
    config = as_user("operator")
    async with JobService(config) as operator, plain_client(config.nats_url, "root") as root:
        js = root.jetstream()
        watcher = await (await js.key_value("jobs")).watchall()
        await js.subscribe("jobs.progress.*", stream="JOBS_PROGRESS", durable="follower")
        await js.subscribe("$KV.jobs.>", stream="KV_jobs", durable="indexer")
        waits = await operator.submit("echo", 1, entity="e")
        more = as_user("operator", pools={"normal": 3})
        await TopologyReconciler(operator.connection, NAMES, more).apply(wait=False)
        kept = {stream: await _names(root, stream) for stream in ("KV_jobs", "JOBS_PROGRESS", "JOBS_NORMAL")}
        assert [len(names) for names in kept.values()] == [2, 1, 5]
        steps = await TopologyReconciler(operator.connection, NAMES, more).apply(wait=False)
        assert Action.DELETE not in {step.action for step in steps}
        for stream, names in kept.items():
            assert await _names(root, stream) == names
        await watcher.stop()
        await operator.cancel(waits)


async def _names(root: Client, stream: str) -> set[str]:
    return set((await api(root, f"CONSUMER.NAMES.{stream}"))["consumers"])


@pytest.mark.parametrize("stream", ["JOBS_LOW", "JOBS_DEAD"])
async def test_an_operator_can_receive_jobs_and_letters_until_somebody_applies(as_user: Settings, stream: str) -> None:
    config = as_user("operator")
    own, subject = {"JOBS_LOW": ("low-1x1-0", "jobs.work.low.1x1.0.>"), "JOBS_DEAD": ("router", "jobs.dead.>")}[stream]
    received: list[bytes] = []

    async def receive(message: object) -> None:
        received.append(message.data)

    async with JobService(config) as operator, plain_client(config.nats_url, "operator") as hostile:
        await hostile.subscribe("_INBOX.operator.rx", cb=receive)
        here = {"deliver_subject": "_INBOX.operator.rx"}
        await remake_consumer(hostile, stream, own, {"filter_subject": subject, "max_ack_pending": 1, **here})
        await make_consumer(hostile, stream, "mine", here)
        async with plain_client(config.nats_url, "root") as root:
            await root.publish({"JOBS_LOW": "jobs.low.e.echo", "JOBS_DEAD": "jobs.dead.x"}[stream], b'"secret"')
        await eventually(lambda: received == [b'"secret"'])
        topology = TopologyReconciler(operator.connection, NAMES, config)
        await topology.apply()
        assert {step.action for step in await topology.plan()} == {Action.KEEP}
        assert await _names(hostile, stream) == {own}
