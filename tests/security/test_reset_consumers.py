"""A router may reset consumers, or have the server do it: no job is lost by that, and it is noticed and taken back."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from commands import commands
from nats.aio.client import Client
from secured import environment, plain_client, remake_consumer

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from router_parts import cleaner_of

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")
FAR = 1995957999999999
"""A sequence that no stream reaches in this decade."""
FORM = json.dumps({"seq": FAR}).encode()


async def position(operator: JobService, place: str) -> int:
    return (await call(operator.connection, f"CONSUMER.INFO.{place}"))["delivered"]["stream_seq"]


async def reset_by_a_delivery(hostile: Client, place: str) -> None:
    """Have the server deliver a queued job, whose payload is the request, to where it listens for such itself."""
    config = {
        "deliver_policy": "all",
        "deliver_subject": f"$JS.API.CONSUMER.RESET.{place}",
        "filter_subject": "jobs.work.low.1x1.0.>",
    }
    await remake_consumer(hostile, "JOBS_LOW", "low-1x1-0", config)


async def doctor_names(config: JobService.Config, consumer: str) -> bool:
    [examined] = await commands((environment(config), ("doctor", "--json")))
    findings = json.loads(examined.out)["findings"]
    return any("delivered is " in one["what"] for one in findings if one["where"] == f"consumer {consumer}")


async def test_a_source_that_was_reset_loses_no_due_job(as_user: Settings) -> None:
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
        before = await operator.submit("echo", 0, entity="e", delay=0.1)
        assert await operator.result(before, timeout=20) == 0
        await operator.submit("echo", {"seq": FAR}, priority="low", entity="e")
        await reset_by_a_delivery(hostile, "JOBS_SCHEDULE.source-normal")

        async def is_reset() -> bool:
            return await position(operator, "JOBS_SCHEDULE.source-normal") == FAR - 1

        await eventually(is_reset)
        job = await operator.submit("echo", 1, entity="e", delay=0.1)

        async def is_due() -> bool:
            info = await call(operator.connection, "STREAM.INFO.JOBS_SCHEDULE", {"subjects_filter": "jobs.due.>"})
            return sum((info["state"].get("subjects") or {}).values()) == 2

        await eventually(is_due)  # what the queue took before, and what it does not take
        assert await doctor_names(config, "source-normal")
        router = routers.router()
        for _ in range(3):
            await router.sweep()
        [left] = router.left
        assert "its consumer source-normal differs from its declaration (delivered is" in left
        await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
        assert await operator.result(job, timeout=20) == 1
        assert not await doctor_names(config, "source-normal")


async def test_what_its_queue_has_not_taken_is_not_cleared_away_though_its_source_says_so(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with JobService(config) as operator, JobService(as_user("router")) as routers, worker:
        async with worker.worker():
            assert await operator.result(await operator.submit("echo", 0, entity="e", delay=0.1), timeout=20) == 0
        await call(operator.connection, "CONSUMER.RESET.JOBS_SCHEDULE.source-normal", {"seq": FAR})
        job = await operator.submit("echo", 1, entity="e", delay=0.1)

        async def fired() -> bool:
            due = await call(operator.connection, "STREAM.INFO.JOBS_SCHEDULE", {"subjects_filter": "jobs.due.>"})
            return sum((due["state"].get("subjects") or {}).values()) == 2

        await eventually(fired)
        clearing = cleaner_of(routers)
        for _ in range(3):
            await clearing.clear()
        due = await call(operator.connection, "STREAM.INFO.JOBS_SCHEDULE", {"subjects_filter": "jobs.due.>"})
        assert sum((due["state"].get("subjects") or {}).values()) == 1
        await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
        async with worker.worker():
            assert await operator.result(job, timeout=20) == 1


@pytest.mark.parametrize("who", ["router", "apply"])
async def test_a_shard_that_was_reset_delivers_again(as_user: Settings, who: str) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    place = "JOBS_NORMAL.normal-1x2-0"
    async with (
        JobService(config) as operator,
        JobService(as_user("router")) as routers,
        plain_client(config.nats_url, "router") as hostile,
        worker,
    ):
        await operator.submit("echo", {"seq": FAR}, priority="low", entity="e")
        await reset_by_a_delivery(hostile, place)

        async def is_reset() -> bool:
            return await position(operator, place) == FAR - 1

        await eventually(is_reset)
        jobs = [await operator.submit("echo", number, entity=f"e{number}") for number in range(8)]
        assert await doctor_names(config, "normal-1x2-0")
        if who == "router":
            for _ in range(3):
                await routers.router().sweep()
        else:
            await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
        async with worker.worker():
            assert await operator.results(jobs, timeout=30) == list(range(8))
        assert not await doctor_names(config, "normal-1x2-0")


async def test_jobs_that_a_shard_was_made_to_pass_over_are_letters_that_say_so_and_run_when_replayed(
    as_user: Settings,
) -> None:
    config = as_user("operator", ack_wait=1)
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    place = "JOBS_NORMAL.normal-1x2-0"
    async with (
        JobService(config) as operator,
        JobService(as_user("router", ack_wait=1)) as routers,
        plain_client(config.nats_url, "router") as hostile,
        worker,
    ):
        await TopologyReconciler(operator.connection, NAMES, config).apply()
        jobs = [await operator.submit("echo", number, entity=f"e{number}") for number in range(8)]
        beyond = (await call(operator.connection, "STREAM.INFO.JOBS_NORMAL"))["state"]["last_seq"] + 1
        await operator.submit("echo", {"seq": beyond}, priority="low", entity="e")
        await reset_by_a_delivery(hostile, place)

        async def is_passed() -> bool:
            return await position(operator, place) == beyond - 1

        await eventually(is_passed)
        router = routers.router()
        async with router, worker.worker():
            ending = asyncio.create_task(operator.results(jobs, timeout=60, return_exceptions=True))
            while not ending.done():
                with suppress(JobService.Error):  # its own sweep makes a consumer again at the same moment
                    await router.sweep()
                await asyncio.wait([ending], timeout=0.5)
            passed = [job for job, outcome in zip(jobs, ending.result(), strict=True) if outcome != jobs.index(job)]
            assert 0 < len(passed) < len(jobs)
            letters = [await eventually(lambda job=job: operator.dlq.find(job)) for job in passed]
            assert all("no worker ever started it" in letter.error_history[-1]["error"] for letter in letters)
            again = [await operator.replay(job) for job in passed]
            assert await operator.results(again, timeout=30) == [jobs.index(job) for job in passed]


async def test_the_consumer_of_letters_that_was_reset_is_made_again_by_apply(as_user: Settings) -> None:
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
    ):
        await operator.submit("echo", {"seq": FAR}, priority="low", entity="e")
        await reset_by_a_delivery(hostile, "JOBS_DEAD.router")

        async def is_reset() -> bool:
            return await position(operator, "JOBS_DEAD.router") == FAR - 1

        await eventually(is_reset)
        async with worker.worker():
            job = await operator.submit("dies", 1)
            with pytest.raises(JobService.Error):
                await operator.result(job, timeout=20)
        assert await doctor_names(config, "router")
        router = routers.router()
        await router.sweep()
        assert any("its consumer router differs from its declaration (delivered is" in left for left in router.left), (
            router.left
        )
        await asyncio.wait_for(TopologyReconciler(operator.connection, NAMES, config).apply(), 20)
        async with routers.router():
            await eventually(lambda: operator.dlq.find(job))
        assert not await doctor_names(config, "router")
