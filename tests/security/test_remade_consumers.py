"""A router may remake consumers, with any setting that there is: jobs go on by themselves, or after one `streams apply`."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from commands import commands
from nats.aio.client import Client
from secured import api, environment, make_consumer, plain_client, remake_consumer

from facts import eventually, is_processing
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")
LOW = Shard.of("low-1x1-0")
assert LOW is not None
SECOND = 10**9

WRONG: dict[str, dict[str, Any]] = {
    "to where a wildcard listens": {"deliver_subject": "jobs.cancel.zzz"},
    "to nobody": {"deliver_subject": "jobs.deliver.low.9x9.0"},
    "to another group": {"deliver_group": "others"},
    "to no group": {"deliver_group": None},
    "to who asks": {"deliver_subject": None, "deliver_group": None},
    "other jobs": {"filter_subject": "jobs.work.low.9x9.0.>"},
    "other jobs by names": {
        "filter_subject": None,
        "filter_subjects": ["jobs.work.low.1x1.0.a", "jobs.work.low.1x1.0.b"],
    },
    "slowly": {"rate_limit_bps": 1},
    "as slowly as they came": {"replay_policy": "original"},
    "with heartbeats": {"flow_control": True, "idle_heartbeat": SECOND},
    "from memory": {"mem_storage": True},
    "for a while": {"inactive_threshold": SECOND},
    "for an hour": {"ack_wait": 3600 * SECOND},
    "for no time": {"ack_wait": 1000},
    "many at once": {"max_ack_pending": 50},
    "once": {"max_deliver": 1},
    "with pauses": {"backoff": [SECOND, 3600 * SECOND]},
    "told of": {"sample_freq": "100"},
}
"""What is bad for a shard's consumer; the server refuses other ack and deliver policies on a queue."""


async def remake(client: Client, stream: str, consumer: dict[str, Any], wrong: dict[str, Any]) -> None:
    """Update a consumer, or delete it and make it anew, with what a role may."""
    config = {key: value for key, value in {**consumer, **wrong}.items() if value is not None}
    if "error" in await make_consumer(client, stream, consumer["name"], config, action="update"):
        await remake_consumer(client, stream, consumer["name"], config)


def shard(config: JobService.Config) -> dict[str, Any]:
    assert LOW is not None
    return declaration.shard_consumer(config, NAMES, LOW)


async def to_do(topology: TopologyReconciler) -> list[Step]:
    return [step for step in await topology.plan() if step.action is not Action.KEEP]


@pytest.mark.long
async def test_a_shard_works_again_after_one_apply(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker() as at_work,
    ):
        topology = TopologyReconciler(operator.connection, NAMES, config)
        for name, wrong in WRONG.items():
            await remake(hostile, "JOBS_LOW", shard(config), wrong)
            job = await operator.submit("echo", name, priority="low", entity="e")
            [step] = await to_do(topology)
            assert step.name == "low-1x1-0", name
            assert set(wrong) <= set(step.changes) | {"name"}, (name, step.changes)
            await asyncio.wait_for(topology.apply(), 20)
            assert await operator.result(job, timeout=20) == name
            assert await to_do(topology) == []
            await eventually(lambda: at_work.ready)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", ["to where a wildcard listens", "to who asks", "other jobs", "slowly", "for no time"])
async def test_a_shard_works_again_by_itself_where_a_router_runs(as_user: Settings, name: str) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        JobService(as_user("router")) as routers,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        await remake(hostile, "JOBS_LOW", shard(config), WRONG[name])
        job = await operator.submit("echo", name, priority="low", entity="e")
        async with routers.router():
            # What was delivered in the very moment of the mend comes back after `ack_wait`, 30 s.
            assert await operator.result(job, timeout=45) == name
            await eventually(lambda: _is_as_declared(operator, config))


async def _is_as_declared(operator: JobService, config: JobService.Config) -> bool:
    return await to_do(TopologyReconciler(operator.connection, NAMES, config)) == []


async def test_the_settings_that_an_operator_chose_are_not_a_routers_to_change(as_user: Settings) -> None:
    chosen = as_user("operator", ack_wait=7, max_deliver=5000)
    async with JobService(chosen) as operator, JobService(as_user("router")) as routers:
        await TopologyReconciler(operator.connection, NAMES, chosen).apply()
        async with plain_client(chosen.nats_url, "router") as hostile:
            await remake(hostile, "JOBS_LOW", shard(chosen), WRONG["to where a wildcard listens"])
        await routers.router().sweep()
        assert await to_do(TopologyReconciler(operator.connection, NAMES, chosen)) == []


async def test_a_worker_and_doctor_say_what_is_wrong_with_a_shard(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    async with worker, worker.worker() as at_work, plain_client(config.nats_url, "router") as hostile:
        await eventually(lambda: at_work.ready)
        await remake(hostile, "JOBS_LOW", shard(config), WRONG["to where a wildcard listens"])
        said = "consumers differ from their declaration: low-1x1-0 (deliver_subject); run `jsjobs streams apply`"
        await eventually(lambda: at_work.why_not_ready == said)
        [examined] = await commands((environment(config), ("doctor", "--json")))
        [found] = [one for one in json.loads(examined.out)["findings"] if one["check"] == "declared"]
        assert 'deliver_subject is "jobs.cancel.zzz", not "jobs.deliver.low.1x1.0"' in found["what"]
        [planned, applied] = [
            (await commands((environment(config), ("streams", what))))[0] for what in ("plan", "apply")
        ]
        assert "low-1x1-0" in planned.out
        assert applied.code == 0, applied.err
        await eventually(lambda: at_work.ready)


async def test_one_shard_with_a_short_ack_wait_costs_no_other_job_its_lease(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))

    @worker.handler("slow")
    async def slow(payload: object) -> object:
        await asyncio.sleep(1)
        return payload

    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker() as at_work,
    ):
        await remake(hostile, "JOBS_LOW", shard(config), WRONG["for no time"])
        await eventually(lambda: "low-1x1-0 (ack_wait)" in at_work.why_not_ready)
        job = await operator.submit("slow", 1, priority="high", entity="e")
        assert await operator.result(job, timeout=20) == 1
        assert (await operator.status(job)).attempts == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"deliver_subject": "jobs.cancel.zzz"},
        {"deliver_group": "others"},
        {"filter_subject": "jobs.dead.nothing"},
        {"headers_only": True},
        {"rate_limit_bps": 1},
        {"inactive_threshold": 3600 * SECOND},
        {"max_deliver": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_letters_reach_routers_again_after_one_apply(as_user: Settings, wrong: dict[str, Any]) -> None:
    """Where the server changes it back a router does that itself; it may not delete this consumer."""
    config = as_user("operator")
    worker = JobService(as_user("worker"))

    @worker.handler("dies")
    async def dies(_: object) -> None:
        raise JobService.Error.from_validation("it shall die")

    async with (
        JobService(config) as operator,
        JobService(as_user("router")) as routers,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        await remake(hostile, "JOBS_DEAD", declaration.router_consumer(NAMES), wrong)
        job = await operator.submit("dies", 1)
        with pytest.raises(JobService.Error):
            await operator.result(job, timeout=20)
        topology = TopologyReconciler(operator.connection, NAMES, config)
        assert "router" in [step.name for step in await to_do(topology)]
        router = routers.router()
        async with router:
            if "deliver_subject" in wrong:
                assert (
                    "the consumer router of JOBS_DEAD differs from its declaration (deliver_subject)"
                    in router.why_not_ready
                )
                [left] = await eventually(lambda: router.left)
                assert "JOBS_DEAD: its consumer router differs from its declaration" in left
                assert "jsjobs streams apply" in left
                await asyncio.wait_for(topology.apply(), 20)
            elif "filter_subject" in wrong:
                await asyncio.wait_for(topology.apply(), 20)
            await eventually(lambda: operator.dlq.find(job))
            await eventually(lambda: not router.why_not_ready)


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter_subject": "jobs.due.low.nobody.>"},
        {"deliver_group": "others"},
        {"rate_limit_bps": 1},
        {"headers_only": True},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_is_due_reaches_its_queue_again_after_one_apply(as_user: Settings, wrong: dict[str, Any]) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    ran: list[object] = []
    worker.register_handler("echo", lambda payload: ran.append(payload) or payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        before = await operator.submit("echo", 0, priority="low", entity="e", delay=0.1)
        assert await operator.result(before, timeout=20) == 0
        await remake(hostile, "JOBS_SCHEDULE", declaration.source_consumer(NAMES, Queue(Priority.LOW)), wrong)
        job = await operator.submit("echo", 1, priority="low", entity="e", delay=0.1)
        topology = TopologyReconciler(operator.connection, NAMES, config)
        assert "source-low" in [step.name for step in await to_do(topology)]
        await asyncio.wait_for(topology.apply(), 20)
        if "headers_only" in wrong:  # what went by meanwhile may have lost its body; what comes now has it
            job = await operator.submit("echo", 1, priority="low", entity="e", delay=0.1)
        assert await operator.result(job, timeout=30) == 1
        assert set(ran) == {0, 1}


async def test_a_pause_for_a_hundred_years_is_named_and_lifted(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        for place in ("JOBS_LOW.low-1x1-0", "JOBS_DEAD.router"):
            await api(hostile, f"CONSUMER.PAUSE.{place}", {"pause_until": "2126-01-01T00:00:00Z"})
        job = await operator.submit("echo", 1, priority="low", entity="e")
        env = environment(config)
        [examined] = await commands((env, ("doctor", "--json")))
        findings = {one["check"]: one for one in json.loads(examined.out)["findings"] if one["severity"] != "ok"}
        assert "paused until 2126-01-01" in findings["paused"]["what"]
        assert findings["paused"]["remedy"] == "if that is not intended: `jsjobs resume low`"
        assert "pause_until is" in findings["declared"]["what"]
        [resumed, applied] = await commands((env, ("resume", "low")), (env, ("streams", "apply")))
        assert (resumed.code, applied.code) == (0, 0), resumed.err + applied.err
        assert await operator.result(job, timeout=20) == 1

        async def letters_flow() -> bool:
            return not (await call(operator.connection, "CONSUMER.INFO.JOBS_DEAD.router")).get("paused")

        await eventually(letters_flow)


@pytest.mark.parametrize("duration", ["short", "long"])
async def test_a_shard_that_is_replaced_while_a_job_runs_runs_one_at_a_time(as_user: Settings, duration: str) -> None:
    config = as_user("operator")
    workers = [JobService(as_user("worker")) for _ in range(2)]
    at_once, most, order = 0, 0, []

    async def work(number: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        order.append(number)
        try:
            await asyncio.sleep(4 if duration == "long" and number == 0 else 0.5)
        finally:
            at_once -= 1
        return number

    for worker in workers:
        worker.register_handler("work", work)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "router") as hostile,
        workers[0],
        workers[1],
        workers[0].worker(),
        workers[1].worker(),
    ):
        jobs = await operator.submit("work", [0, 1, 2, 3], priority="low", entity="one", duration=duration)
        await eventually(lambda: is_processing(operator, jobs[0]))
        began = time.monotonic()
        if duration == "long":  # so that its entry alone keeps no other worker from it
            await eventually(lambda: time.monotonic() - began > config.ack_wait)
        await remake(hostile, "JOBS_LOW", shard(config), WRONG["to where a wildcard listens"])
        await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
        info = await call(operator.connection, "CONSUMER.INFO.JOBS_LOW.low-1x1-0")
        assert info["config"]["deliver_subject"] == "jobs.deliver.low.1x1.0"
        assert info["config"]["pause_until"]  # the end of the lease of whoever runs the job
        assert await operator.results(jobs, timeout=40) == [0, 1, 2, 3]
    assert most == 1
    assert sorted(set(order)) == [0, 1, 2, 3]
    assert order == sorted(order)


@pytest.mark.long
async def test_apply_ends_where_somebody_is_always_in_between(as_user: Settings) -> None:
    config = as_user("operator")
    async with JobService(config) as operator, plain_client(config.nats_url, "router") as hostile:
        ended = asyncio.Event()

        async def write_on() -> None:
            while not ended.is_set():  # a cancellation alone can be lost: Python 3.11's `wait_for` swallows some
                await hostile.request("$KV.jobs.topology.low", b"{}", timeout=5)

        writing = asyncio.ensure_future(write_on())
        try:
            with pytest.raises(
                JobError, match=r"generations topology\.low differs from its declaration .* 12 attempts"
            ):
                await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 30)
        finally:
            ended.set()
            await writing
        await TopologyReconciler(operator.connection, NAMES, config).apply()
