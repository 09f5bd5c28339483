"""Each role does all of its work with the files of `streams/auth`, in processes as they are deployed."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from commands import commands
from secured import environment, plain_client, serving, wire

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.topology.stalled_consumers import wake
from jsjobs.maintenance.sweep import Sweep
from jsjobs.model.job import Priority, utc_now
from jsjobs.rpc import Rpc
from jsjobs.safe_log import get_logger
from stream_facts import consumers_of, delete_consumer

APP = """
import asyncio
from jsjobs import JobService

jobs = JobService()

@jobs.periodic(every=3600)
@jobs.handler("beat")
async def beat(payload): ...

@jobs.handler("echo")
async def echo(payload, ctx: JobService.Context):
    await ctx.report_progress(50, "half")
    return payload

@jobs.handler("flaky")
async def flaky(payload, ctx: JobService.Context):
    if ctx.attempt == 1:
        raise ValueError("once")
    return "at last"

@jobs.handler("dies")
async def dies(payload):
    raise JobService.Error.from_validation("it shall die")

@jobs.handler("sleeps")
async def sleeps(payload):
    await asyncio.sleep(60)

@jobs.handler("parent")
async def parent(payload):
    ids = await jobs.submit("echo", [1, 2], priority="high")
    later = await jobs.submit("echo", 3, priority="high", delay=0.1)
    return [*await jobs.results(ids), await jobs.result(later)]
"""
Settings = Callable[..., JobService.Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "app"
    made.mkdir()
    (made / "app.py").write_text(APP)
    return made


async def done(env: dict[str, str], *calls: str) -> list[str]:
    """Run commands at once; what each prints. Words are split at spaces."""
    ended = await commands(*((env, tuple(call.split())) for call in calls))
    for asked, end in zip(calls, ended, strict=True):
        assert end.code == 0, f"{asked}: {end.err}"
        assert "Violation" not in end.err
    return [end.out for end in ended]


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_deployment_of_roles(as_user: Settings, folder: Path) -> None:
    users = ("delaying", "service", "router", "operator", "viewer", "publisher")
    envs = {user: environment(as_user(user)) for user in users}
    operator, viewer = envs["operator"], envs["viewer"]
    async with AsyncExitStack() as stack:
        logs = await asyncio.gather(
            stack.enter_async_context(serving(envs["delaying"], "worker", "app:jobs", "--no-router", cwd=folder)),
            stack.enter_async_context(serving(envs["router"], "router", cwd=folder)),
            stack.enter_async_context(serving(envs["service"], "rpc", cwd=folder)),
        )
        async with JobService(as_user("publisher")) as publisher, JobService(as_user("viewer")) as sees:
            echo = await publisher.submit("echo", {"a": 1}, entity="e")
            listed = await publisher.submit("echo", [1, 2, 3])
            flaky, parent = await publisher.submit("flaky", 1), await publisher.submit("parent", 1, priority="critical")
            dead, runs = (
                await publisher.submit("dies", 1),
                await publisher.submit("sleeps", 1, priority="low", entity="e", duration="long"),
            )
            waits = await publisher.submit("echo", 1, priority="low", entity="e")
            assert await sees.results(listed, timeout=20) == [1, 2, 3]
            assert await sees.result(parent, timeout=20) == [1, 2, 3]
            assert await sees.result(flaky, timeout=20) == "at last"
            assert [item.status for item in (await sees.status(flaky)).history] == [
                "processing", "queued", "processing", "complete",
            ]  # fmt: skip
            assert [update.pct async for update in sees.progress(echo)] == [50]
            with pytest.raises(JobService.Error, match="it shall die"):
                await sees.result(dead, timeout=20)
        async with plain_client(as_user("publisher").nats_url, "publisher") as raw:
            receipt = await raw.jetstream().publish("jobs.high.e.echo", b'"raw"')
            asked = await raw.request("jobs.rpc.submit", b'{"type": "echo", "payload": 7, "delay": 0.2}')
            delayed = json.loads(asked.data)["job_id"]
            results = await done(viewer, f"result high-{receipt.seq} --json", f"result {delayed} --json")
            assert [json.loads(result) for result in results] == ["raw", 7]
        [submitted] = await done(envs["publisher"], "submit echo 5 --json")
        assert json.loads(submitted)["job_id"].startswith("normal-")
        shown, queues, top, schedules, progress = await done(
            viewer,
            f"status {echo} --json",
            "queues --json",
            "top --count 1 --json",
            "schedule list --json",
            f"progress {echo} --json",
        )
        assert json.loads(shown)["result"] == {"a": 1}
        assert "low" in queues
        assert json.loads(top)
        assert [each["name"] for each in json.loads(schedules)] == ["beat"]
        assert json.loads(progress)["pct"] == 50

        letter = (await eventually(lambda: _letters(operator)))[0]
        assert letter["original_job_id"] == dead
        await done(operator, f"cancel {waits}")  # the one behind it would begin once the other is cancelled
        _, replayed, *_, again = await done(
            operator,
            f"cancel {runs}",
            f"dlq replay {letter['id']} --json",
            "streams plan",
            "streams show",
            "schedule add hourly echo 1 --every 1h",
            "pause low",
            "submit echo 8 --delay 1h --json",
        )
        assert "replay-1-" in replayed
        again = json.loads(again)["job_id"]
        await done(operator, "schedule run hourly", "resume low", f"reschedule {again} --now", f"result {again}")
        await done(operator, "schedule remove hourly", "streams apply --shards normal=3")
        for log in logs[1:]:
            assert not {"Violation", "Traceback"} & set(re.findall(r"\w+", log.read_text()))
        # Whoever has the rights to serve it does; a worker has not.
        assert set(_refused(logs[0])) <= {"jobs.rpc", "$SRV.PING"}


async def _letters(env: dict[str, str]) -> list[dict[str, object]]:
    return json.loads((await done(env, "dlq list --json"))[0])


def _refused(log: Path) -> list[str]:
    lines = [line for line in log.read_text().splitlines() if "Violation" in line]
    return [".".join(line.split('"')[1].split(".")[:2]) for line in lines]


async def test_a_router_heals_and_sweeps(as_user: Settings) -> None:
    """It restores a consumer that was lost, and finishes a change of shards that an operator left half done."""
    more = as_user("operator", pools={"normal": 3})
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with JobService(more) as operator, JobService(as_user("router")) as router, worker:
        await delete_consumer(operator.connection, "JOBS_HIGH", "high-1x3-0")
        sweep = Sweep(router.connection, Names("jobs"), router.config, None)  # there is nothing to dead-letter
        await sweep.once()
        assert "high-1x3-0" in await consumers_of(operator.connection, "JOBS_HIGH")
        job_id = await operator.submit("echo", 1, entity="e")
        await TopologyReconciler(operator.connection, Names("jobs"), more).apply(wait=False)
        await sweep.once()
        assert {"normal-1x2-0", "normal-2x3-0"} <= await consumers_of(operator.connection, "JOBS_NORMAL")
        async with worker.worker():
            assert await worker.result(job_id) == 1

            async def is_finished() -> bool:
                await sweep.once()
                return await consumers_of(operator.connection, "JOBS_NORMAL") == {
                    f"normal-2x3-{number}" for number in range(3)
                }

            assert await eventually(is_finished)
            assert await worker.result(await operator.submit("echo", 2, entity="e")) == 2


async def test_a_tenant_submits_its_own_jobs_alone(as_user: Settings, folder: Path) -> None:
    async with serving(environment(as_user("service")), "rpc", cwd=folder), JobService(as_user("viewer")) as viewer:
        url = viewer.config.nats_url
        async with (
            plain_client(url, "acme") as acme,
            wire(url, "acme") as plain,
            plain_client(url, "operator") as all_tenants,
        ):
            answer = await acme.request("jobs.rpc.tenant.acme.submit", b'{"type": "echo", "payload": 1}', timeout=10)
            assert (await viewer.status(json.loads(answer.data)["job_id"])).tenant == "acme"
            claimed = await acme.request(
                "jobs.rpc.tenant.acme.submit", b'{"type": "echo", "tenant": "other"}', timeout=10
            )
            assert "Validation" in (claimed.headers or {}).get("Nats-Service-Error", "")
            for subject in ("jobs.rpc.tenant.other.submit", "jobs.rpc.submit", "jobs.normal.e.echo"):
                assert await plain.is_refused(subject)
            other = await all_tenants.request("jobs.rpc.tenant.other.submit", b'{"type": "echo"}', timeout=10)
            assert (await viewer.status(json.loads(other.data)["job_id"])).tenant == "other"


async def test_the_service_serves_all_of_its_endpoints(as_user: Settings) -> None:
    """With its own role, for who may ask; what a viewer sees of a list is here too."""
    worker, service, routers = (JobService(as_user(user)) for user in ("worker", "service", "router"))

    @worker.handler("echo")
    async def echo(payload: object, ctx: JobService.Context) -> object:
        await ctx.report_progress(50)
        return payload

    @worker.handler("dies")
    async def dies(_: object) -> None:
        raise JobService.Error.from_validation("it shall die")

    async with (
        worker,
        service,
        routers,
        JobService(as_user("operator")) as operator,
        JobService(as_user("viewer")) as viewer,
        plain_client(as_user("operator").nats_url, "operator") as client,
        worker.worker(),
        routers.router(),
        Rpc(service),
    ):

        async def ask(endpoint: str, **body: object) -> dict[str, object]:
            answer = await client.request(f"jobs.rpc.{endpoint}", json.dumps(body).encode(), timeout=20)
            assert not answer.headers, (endpoint, answer.headers)
            return dict(json.loads(answer.data))

        ended, dead, later = [
            str((await ask("submit", type=kind, payload=1, **options))["job_id"])
            for kind, options in (("echo", {}), ("dies", {}), ("echo", {"delay": 3600}))
        ]
        assert (await ask("result", job_id=ended, timeout=20))["result"] == 1
        assert (await ask("status", job_id=ended))["status"] == "complete"
        assert (await ask("progress", job_id=ended))["pct"] == 50
        assert (await ask("reschedule", job_id=later, delay=7200))["job_id"] == later
        assert (await ask("cancel", job_id=later))["status"] == "cancelled"
        await eventually(lambda: operator.dlq.find(dead))
        assert str((await ask("replay", dlq_id=dead))["job_id"]).startswith("replay-1-")
        listed = await operator.submit("echo", [1, 2])
        assert (await viewer.batch(str(listed[0].batch_id))).total == 2


async def test_an_operator_may_ask_all_that_the_doctor_does(as_user: Settings) -> None:
    [examined] = await commands((environment(as_user("operator")), ("doctor", "--json")))
    found = {finding["check"]: finding for finding in json.loads(examined.out)["findings"]}
    assert found["rights"]["severity"] == "ok", found["rights"]
    assert "Violation" not in examined.err


async def test_a_router_wakes_what_stalls_and_a_worker_leaves_that_to_routers(
    as_user: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jsjobs")
    ran: list[int] = []
    operator, worker = (
        JobService(as_user("operator")),
        JobService(as_user("worker", retry=JobService.Retry(initial=0.01))),
    )

    @worker.handler("echo")
    async def echo(number: int) -> None:
        ran.append(number)

    def is_told() -> bool:
        return "a router will wake low-1x1-0: this NATS user may not" in caplog.text

    async def stall(number: int) -> None:
        """Let a job wait in a shard of which nobody tells the server that it may go on: now and then it goes on."""
        place = f"CONSUMER.PAUSE.{names.stream(Priority.LOW)}.low-1x1-0"
        await call(operator.connection, place, {"pause_until": (utc_now() + timedelta(hours=1)).isoformat()})
        await operator.submit("echo", number, priority="low", entity="e")
        await call(operator.connection, place, {})
        await eventually(lambda: number in ran or is_told())

    names = Names(operator.config.namespace)
    async with operator, worker, worker.worker():
        number = 0
        while not is_told():
            assert number < 10
            number += 1
            await stall(number)
        assert number not in ran
        router = JobService(as_user("router"))
        async with router, router.router():
            await eventually(lambda: number in ran)
            # It may wake the consumer of its letters too.
            await wake(router.connection, names, (names.dead_stream, names.router), get_logger("jsjobs.test"))
    assert caplog.text.count("a router will wake") == 1
