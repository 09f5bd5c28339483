"""Who may write the list of a priority's shards, a router, can write anything there: nobody builds or waits for it."""

import asyncio
import json
import logging
import time
from collections.abc import Callable

import pytest
from commands import commands
from secured import environment, plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.cli.run.health import readiness_of
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Generation, Names
from jsjobs.jetstream.topology.generations import MAX_GENERATIONS, live_shards, read_live
from jsjobs.jetstream.topology.plan import Action
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")
SUBJECT = "$KV.jobs.topology.normal"

UNREADABLE = {
    "empty": b"{}",
    "no object": b"[1]",
    "no JSON": b"\xff\x00{[",
    "deep": b'{"generations":' + b"[" * 100_000,
    "large": b'{"generations": ["1x2"], "x": "' + b"x" * 1_000_000 + b'"}',
    "no generation": b'{"generations": []}',
    "text": b'{"generations": "1x2"}',
    "numbers": b'{"generations": [1, 2]}',
    "null": b'{"generations": null}',
    "none shards": b'{"generations": ["1x0"]}',
    "negative": b'{"generations": ["1x-2"]}',
    "many shards": b'{"generations": ["1x2", "3x3000000"]}',
    "one shard too many": b'{"generations": ["1x2", "3x65"]}',
    "many generations": json.dumps({"generations": [f"{n}x2" for n in range(1, 10_001)]}).encode(),
    "twice": b'{"generations": ["1x2", "1x2"]}',
    "no pause": b'{"generations": ["1x2"], "operators_pause": 7}',
    "pause before time": b'{"generations": ["1x2"], "paused_until": "0001-01-01T00:00:00+14:00"}',
    "copies": b'{"generations": ["1x2"], "copies": 1000000}',
    "copies below": b'{"generations": ["1x2"], "copies": -1}',
    "copies in words": b'{"generations": ["1x2"], "copies": "three"}',
    "infinite copies": b'{"generations": ["1x2"], "copies": 1e999}',
}


def told_by(logger: str, caplog: pytest.LogCaptureFixture) -> int:
    return sum(one.name == logger and "shards stay as they were" in one.getMessage() for one in caplog.records)


async def test_it_changes_nothing_and_apply_repairs_it(as_user: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jsjobs")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(as_user("operator")) as operator,
        JobService(as_user("router")) as routers,
        plain_client(as_user("router").nats_url, "router") as hostile,
        worker,
    ):
        topology, router = TopologyReconciler(operator.connection, NAMES, as_user("operator")), routers.router()
        async with router, worker.worker() as at_work:
            await eventually(lambda: at_work.ready)
            for name, nonsense in UNREADABLE.items():
                await hostile.request(SUBJECT, nonsense, timeout=5)
                await eventually(lambda: told_by("jsjobs.worker", caplog))
                job = await operator.submit("echo", name, entity="e")
                assert await operator.result(job, timeout=10) == name
                await router.sweep()  # of all priorities, and all else that it looks at
                assert at_work.ready, at_work.why_not_ready
                assert any(SUBJECT.removeprefix("$KV.jobs.") in note for note in readiness_of(None, router).notes)
                steps = [step for step in await topology.plan() if step.action is not Action.KEEP]
                assert [(step.kind, step.name) for step in steps] == [("generations", "topology.normal")]
                await topology.apply()
                assert (await read_live(operator.connection, NAMES, Priority.NORMAL)).generations == (Generation(1, 2),)
                await router.sweep()
                assert router.left == []
            # Every look finds it, one of them tells.
            assert told_by("jsjobs.worker", caplog) <= len(UNREADABLE)
            assert told_by("jsjobs.router", caplog) <= len(UNREADABLE)


async def test_doctor_names_it_and_the_command_repairs_it(as_user: Settings) -> None:
    env = environment(as_user("operator"))
    async with plain_client(as_user("router").nats_url, "router") as hostile:
        await hostile.request(SUBJECT, UNREADABLE["many shards"], timeout=5)
    viewer = environment(as_user("viewer"))
    examined, queues, submitted, paused = await commands(
        (env, ("doctor", "--json")),
        (viewer, ("queues",)),
        (environment(as_user("publisher")), ("submit", "echo", "1")),
        (env, ("pause", "normal")),
    )
    [found] = [each for each in json.loads(examined.out)["findings"] if each["check"] == "declared"]
    assert found["severity"] == "problem"
    assert "the entry topology.normal in the bucket jobs cannot be read" in found["what"]
    assert found["remedy"] == "jsjobs streams apply"
    assert (queues.code, submitted.code) == (0, 0), queues.err + submitted.err
    assert "run `jsjobs streams apply`" in " ".join(paused.err.split())
    [applied] = await commands((env, ("streams", "apply")))
    assert applied.code == 0, applied.err
    [examined] = await commands((env, ("doctor", "--json")))
    assert [each["severity"] for each in json.loads(examined.out)["findings"] if each["check"] == "declared"] == ["ok"]


async def test_a_list_that_can_be_read_makes_no_consumers_for_shards_without_jobs(as_user: Settings) -> None:
    """What others carry out for a router stays small; an operator's apply ends it."""
    listed = ["1x2", *(f"{number}x64" for number in range(2, MAX_GENERATIONS + 1))]
    async with JobService(as_user("operator")) as operator, JobService(as_user("router")) as routers:
        waits = await operator.submit("echo", 1, entity="e")
        async with plain_client(as_user("router").nats_url, "router") as hostile:
            await hostile.request(SUBJECT, json.dumps({"generations": listed}).encode(), timeout=5)
        await routers.router().sweep()
        shards = await live_shards(operator.connection, NAMES, (Priority.NORMAL,))
        assert {str(shard.generation) for shard in shards} == {"1x2", listed[-1]}
        await operator.cancel(waits)
        await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, as_user("operator")).apply(), 30)
        shards = await live_shards(operator.connection, NAMES, (Priority.NORMAL,))
        assert len({shard.generation for shard in shards}) == 1
        assert len(shards) == 2


async def test_copies_that_no_server_can_give_are_forgotten(as_user: Settings) -> None:
    entry = {"generations": ["1x2"], "copies": 3}
    async with JobService(as_user("operator")) as operator:
        async with plain_client(as_user("router").nats_url, "router") as hostile:
            await hostile.request(SUBJECT, json.dumps(entry).encode(), timeout=5)
        await TopologyReconciler(operator.connection, NAMES, as_user("operator")).apply()
        assert (await read_live(operator.connection, NAMES, Priority.NORMAL)).copies is None


async def test_the_last_number_does_not_end_changes(as_user: Settings) -> None:
    entry = {"generations": ["1x2", "999999999x2"]}
    async with JobService(as_user("operator")) as operator:
        async with plain_client(as_user("router").nats_url, "router") as hostile:
            await hostile.request(SUBJECT, json.dumps(entry).encode(), timeout=5)
        for shards, then in ((2, "999999999x2"), (3, "1x3"), (2, "2x2")):
            config = as_user("operator", pools={"normal": shards})
            await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 30)
            [only] = (await read_live(operator.connection, NAMES, Priority.NORMAL)).generations
            assert str(only) == then
            found = await live_shards(operator.connection, NAMES, (Priority.NORMAL,))
            assert {str(shard.generation) for shard in found} == {then}


async def asked_of_the_server(operator: JobService) -> int:
    return int((await call(operator.connection, "INFO"))["api"]["total"])


async def test_lists_that_are_written_all_the_time_leave_workers_their_time(as_user: Settings) -> None:
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(as_user("operator")) as operator,
        plain_client(as_user("router").nats_url, "router") as hostile,
        worker,
        worker.worker(),
    ):
        before, began = await asked_of_the_server(operator), time.monotonic()
        while time.monotonic() - began < 3:
            for _ in range(200):
                await hostile.publish(SUBJECT, b'{"generations": ["1x2"]}')
            await hostile.flush()
        # A look asks eight times, ten times a second at most.
        assert await asked_of_the_server(operator) - before < 8 * 60
        job = await operator.submit("echo", 1, entity="e")
        assert await operator.result(job, timeout=10) == 1
