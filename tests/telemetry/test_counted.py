"""The numbers that are exported are the numbers of what ran."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from deliveries import set_max_deliver
from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority, utc_now
from jsjobs.model.lanes import DEFAULT_PARTITIONS
from jsjobs.telemetry.metrics import MAX_TYPES, OTHER, Measures

JSJOBS = str(Path(sys.executable).with_name("jsjobs"))
SHARDS = 10


async def test_numbers_agree_with_what_ran(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("note", list(range(10)), priority="high")
    for _ in range(2):
        await telemetry_apps.submit("note", 11, priority="high", dedupe_key="once")
    await telemetry_apps.submit("flaky", {"fails": 2})
    await telemetry_apps.submit("dies", None)

    async def have_all_run() -> bool:
        return len(receiver.named("job.process")) == 11 + 3 + 1 + 1

    await eventually(have_all_run)
    await worker.stop()

    def counted(metric: str, operation: str = "process") -> dict[str, int]:
        types = ("note", "flaky", "child", "dies")
        found = {name: receiver.value(f"jobs.{metric}", type=name, operation=operation) for name in types}
        return {name: value for name, value in found.items() if value}

    assert counted("submitted", "submit") == {"note": 11, "flaky": 1, "child": 1, "dies": 1}
    assert counted("completions") == {"note": 11, "flaky": 1, "child": 1}
    assert counted("failures") == {"flaky": 2, "dies": 1}
    assert counted("retries") == {"flaky": 2}
    assert counted("dead_lettered") == {"dies": 1}
    assert counted("run.duration") == counted("wait.duration") == {"note": 11, "flaky": 3, "child": 1, "dies": 1}
    assert receiver.value("jobs.completions", priority="high") == 11
    assert receiver.value("jobs.completions", priority="low", type="child") == 1
    assert receiver.value("jobs.running") == 0
    assert receiver.value("jobs.cancellations") is None
    assert receiver.units["jobs.completions"] == "{job}"
    assert receiver.units["jobs.wait.duration"] == "s"


@pytest.mark.long
async def test_a_snooze_is_no_failure_and_an_expired_job_no_attempt(
    telemetry_apps: TelemetryApps, receiver: Receiver, tmp_path: Path
) -> None:
    for expired in ("drop", "dead_letter"):
        await telemetry_apps.submit("note", 1, expires=0.001, expired=expired)
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("sleepy", str(tmp_path / "slept"))

    async def have_all_run() -> bool:
        return len(receiver.named("job.process")) == 2 and receiver.value("jobs.dead_lettered") == 2

    await eventually(have_all_run)
    await worker.stop()
    assert receiver.value("jobs.snoozes", type="sleepy", operation="process") == 1
    assert receiver.value("jobs.completions", type="sleepy") == 1
    assert receiver.value("jobs.dead_lettered", type="note", operation="expire") == 2
    assert receiver.value("jobs.failures") is None
    assert receiver.value("jobs.running") == 0
    spans = receiver.named("job.process", job_type="sleepy")
    assert [span.attributes["job.outcome"] for span in spans] == ["snoozed", "complete"]
    assert [span.attributes["job.attempt"] for span in spans] == [1, 1]


@pytest.mark.long
async def test_a_cancel_counts_once_whoever_asked_for_it(
    telemetry_apps: TelemetryApps, receiver: Receiver, settings_of: Callable[..., JobService.Config]
) -> None:
    workers = [await telemetry_apps.worker() for _ in range(2)]
    async with service(telemetry_apps) as jobs:  # without telemetry
        await jobs.pause("low")
        waiting = await jobs.submit("note", 1, priority="low")
        delayed = await jobs.submit("note", 1, delay=3600)
        await jobs.cancel(waiting)
        await jobs.cancel(delayed)
        for ended in (waiting, "low-1"):
            with pytest.raises(JobService.Error):
                await jobs.cancel(ended)

        async def are_counted() -> bool:
            return receiver.value("jobs.cancellations") == 2

        await eventually(are_counted)
        assert receiver.value("jobs.cancellations", type="note", operation="cancel", priority="low") == 1
        assert receiver.value("jobs.cancellations", type="note", operation="cancel", priority="normal") == 1
        running = await jobs.submit("sleep", 60, priority="high", duration="long")

        async def is_running() -> bool:
            return receiver.value("jobs.running", type="sleep") == 1

        await eventually(is_running)
        await jobs.cancel(running)
    for worker in workers:
        await worker.stop()
    # The worker counts what it stopped itself.
    assert receiver.value("jobs.cancellations", type="sleep", operation="cancel", priority="high") == 1
    assert receiver.value("jobs.cancellations") == 3
    assert receiver.value("jobs.running") == 0
    [span] = receiver.named("job.process", job_type="sleep")
    assert span.attributes["job.outcome"] == "cancelled"


@pytest.mark.long
async def test_a_cancel_that_a_worker_finishes_is_counted_by_it_and_a_false_word_is_not(
    telemetry_apps: TelemetryApps, receiver: Receiver, plain: Client, connection: Connection, namespace: str
) -> None:
    async with service(telemetry_apps) as jobs:
        job_id, other = await jobs.submit("note", 1, priority="low"), await jobs.submit("note", 2, priority="low")
        state = StateStore(connection, Names(namespace))
        entry = await jobs.status(job_id)  # as a caller leaves it that dies here
        await state.write(entry.cancelled(utc_now()), expected=0, ttl=3600 * 24, provisional=True)
        worker = await telemetry_apps.worker()

        async def is_counted() -> bool:
            return receiver.value("jobs.cancellations") == 1 and receiver.value("jobs.completions") == 1

        await eventually(is_counted)
        for told in (other, "low-7", "no id", "x.y"):
            await plain.publish(f"{namespace}.cancel.{told.replace(' ', '_')}", b"cancelled")
        await plain.flush()
        await worker.stop()
    assert receiver.value("jobs.cancellations") == 1


async def test_where_no_handler_begins_there_are_no_times(
    telemetry_apps: TelemetryApps, receiver: Receiver, plain: Client, namespace: str
) -> None:
    await plain.jetstream().publish(f"{namespace}.low.e.nobodys", b"1")
    await plain.jetstream().publish(f"{namespace}.low.e.note", b'"no number"')
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("note", 1, priority="low")

    async def are_done() -> bool:
        return len(receiver.named("job.process")) == 3

    await eventually(are_done)
    await worker.stop()
    for name in ("run.duration", "wait.duration"):
        assert receiver.value(f"jobs.{name}", type="nobodys") is None
        assert receiver.value(f"jobs.{name}", type="note") == 1
    assert receiver.value("jobs.running", type="nobodys") is None
    assert receiver.value("jobs.dead_lettered", type="nobodys") == 1
    assert receiver.value("jobs.dead_lettered", type="note") == 1


@pytest.mark.long
async def test_a_handler_runs_from_when_its_process_begins_it(
    telemetry_apps: TelemetryApps, receiver: Receiver
) -> None:
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("apart", 1)

    async def is_done() -> bool:
        return bool(receiver.named("job.process", job_type="apart"))

    await eventually(is_done)
    await worker.stop()
    [span] = receiver.named("job.process", job_type="apart")
    took = (span.ended - span.started) / 1e9
    [ran] = [value[1] for (_, name, labels), value in receiver.points.items() if name == "jobs.run.duration"]
    [waited] = [value[1] for (_, name, labels), value in receiver.points.items() if name == "jobs.wait.duration"]
    assert ran < 0.1 < took  # a new process takes longer to start than its handler to run
    assert waited > took - ran - 0.1


@pytest.mark.long
async def test_what_queues_tell_comes_from_who_is_asked(
    telemetry_apps: TelemetryApps, receiver: Receiver, plain: Client, namespace: str
) -> None:
    await telemetry_apps.submit("note", list(range(5)), priority="low", entity="e")
    await plain.jetstream().publish(f"{namespace}.low.e.note", b"1")
    await telemetry_apps.submit("note", 1, priority="low", entity="e", dedupe_key="once")
    await telemetry_apps.submit("note", 1, priority="low", entity="e", dedupe_key="once")
    await telemetry_apps.submit("note", list(range(3)), priority="low")
    await plain.jetstream().publish(f"{namespace}.parallel.low.acme.note", b"1")
    for number in range(2):
        await telemetry_apps.submit("note", number, priority="critical", entity="one")
    router = await telemetry_apps.worker("router")
    watcher = await telemetry_apps.worker("watcher")

    async def is_told() -> bool:
        return receiver.value("jobs.queue.depth", priority="low", lane="ordered", shard=0, state="waiting") == 7

    await eventually(is_told)
    assert receiver.value("jobs.queue.depth", priority="critical", state="waiting") == 2
    assert receiver.value("jobs.queue.depth", state="running") == 0
    depths = [
        receiver.value("jobs.queue.depth", priority="low", lane="parallel", partition=number, state="waiting")
        for number in range(DEFAULT_PARTITIONS)
    ]
    assert sorted(depths) == [0, 0, 1, 3]
    assert receiver.value("jobs.queue.depth", lane="parallel", shard=0) is None
    assert receiver.value("jobs.dead_letters.waiting") == 0
    # Raw publishes, and what nobody with telemetry submitted, are in it too.
    assert receiver.value("jobs.enqueued", priority="low", lane="ordered") == 7
    assert receiver.value("jobs.enqueued", priority="low", lane="parallel") == 4
    assert receiver.value("jobs.enqueued", priority="critical") == 2
    assert receiver.value("jobs.enqueued", priority="high") == 0
    series = {labels for _, name, labels in receiver.points if name == "jobs.queue.depth"}
    assert len(series) == (SHARDS + len(Priority) * DEFAULT_PARTITIONS) * 2
    assert len({instance for instance, name, _ in receiver.points if name == "jobs.queue.depth"}) == 1
    await watcher.stop()
    await router.stop()


@pytest.mark.long
async def test_dead_letters_say_their_trace(
    telemetry_apps: TelemetryApps, receiver: Receiver, plain: Client, namespace: str
) -> None:
    worker = await telemetry_apps.worker()
    mine = await telemetry_apps.submit("dies", None)
    ack = await plain.jetstream().publish(f"{namespace}.high.e.dies", b"1")
    strangers = f"high-{ack.seq}"

    async with service(telemetry_apps) as jobs:
        own = await eventually(lambda: jobs.dlq.find(mine))
        raw = await eventually(lambda: jobs.dlq.find(strangers))
        (replay,) = json.loads(await cli(telemetry_apps, "dlq", "replay", str(own.id), "--json"))
        replayed = replay["replayed_job_id"]

        async def are_exported() -> bool:
            return len(receiver.named("job.process", job_type="dies")) == 3

        await eventually(are_exported)
        again = await eventually(lambda: jobs.dlq.find(replayed))
    await worker.stop()
    assert receiver.value("jobs.submitted", type="dies", operation="replay", priority="normal") == 1
    (submit,) = receiver.named("job.submit")
    shown = json.loads(await cli(telemetry_apps, "dlq", "show", str(own.id), "--json"))
    assert shown["traceparent"] == own.traceparent
    assert submit.trace_id in await cli(telemetry_apps, "dlq", "show", str(own.id))
    assert own.traceparent.startswith(f"00-{submit.trace_id}-{submit.span_id}-")
    assert again.traceparent == own.traceparent
    (process,) = receiver.named("job.process", job_id=strangers)
    assert raw.traceparent.startswith(f"00-{process.trace_id}-{process.span_id}-")


async def cli(apps: TelemetryApps, *arguments: str) -> str:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(JSJOBS, *arguments, env=apps.environment, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(30):
        out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return out.decode()


def service(apps: TelemetryApps) -> JobService:
    env = apps.environment
    names = ("nats_url", "database_url", "namespace")
    return JobService(JobService.Config(**{name: env[f"JSJOBS_{name.upper()}"] for name in names}))


@pytest.mark.long
async def test_a_job_that_no_worker_could_end_is_counted_by_the_router(
    settings_of: Callable[..., JobService.Config],
    deploy: Callable[[JobService.Config], Awaitable[None]],
    plain: Client,
    receiver: Receiver,
) -> None:
    config = settings_of(ack_wait=1)
    await deploy(config)
    await set_max_deliver(config, 2)
    apps = TelemetryApps(config, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_METRIC_EXPORT_INTERVAL="200")
    router = await apps.worker("router")

    async def ignore(message: Msg) -> None:
        """Never answers."""

    await plain.subscribe(f"{config.namespace}.deliver.low.1x1.0", queue="workers", cb=ignore)
    await plain.jetstream().publish(f"{config.namespace}.low.e.stuck", b"1")

    async def is_counted() -> bool:
        return receiver.value("jobs.dead_lettered", type="stuck", operation="dead_letter", priority="low") == 1

    await eventually(is_counted)
    await router.stop()
    await apps.close()


@pytest.mark.long
async def test_an_attempt_that_ended_with_its_worker_is_a_failure(
    telemetry_apps: TelemetryApps, receiver: Receiver
) -> None:
    first = await telemetry_apps.worker()
    await telemetry_apps.submit("suicide", None)
    async with asyncio.timeout(20):
        assert await first.child.wait() == 9
    second = await telemetry_apps.worker()

    async def is_done() -> bool:
        return bool(receiver.named("job.process", job_type="suicide"))

    await eventually(is_done)
    await second.stop()
    for name in ("failures", "retries", "completions"):
        assert receiver.value(f"jobs.{name}", type="suicide") == 1, name
    (span,) = receiver.named("job.process", job_type="suicide")
    assert span.attributes["job.attempt"] == 2


@pytest.mark.long
async def test_the_command_keeps_gauges_where_it_is_told_to(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    pipe = asyncio.subprocess.PIPE
    for switched, says in (({}, b"ready"), ({"OTEL_SDK_DISABLED": "true"}, b"queue metrics are asked for")):
        env = telemetry_apps.environment | switched
        child = await asyncio.create_subprocess_exec(JSJOBS, "router", "--queue-metrics", env=env, stderr=pipe)
        assert child.stderr is not None
        async with asyncio.timeout(20):
            while says not in await child.stderr.readline():
                assert not child.stderr.at_eof()
        if not switched:

            async def is_told() -> bool:
                return receiver.value("jobs.queue.depth", state="waiting") == 0

            await eventually(is_told)
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await child.communicate()
        assert child.returncode == 0


@pytest.mark.long
async def test_types_of_strangers_do_not_take_the_room_of_those_that_have_a_handler(
    telemetry_apps: TelemetryApps, receiver: Receiver, plain: Client, namespace: str
) -> None:
    stream = plain.jetstream()
    for number in range(MAX_TYPES):
        await stream.publish(f"{namespace}.low.e.junk-{number}", b"1")
    await stream.publish(f"{namespace}.low.e.note", b"1")
    worker = await telemetry_apps.worker()

    async def is_counted() -> bool:
        return receiver.value("jobs.completions", type="note") == 1 and bool(
            receiver.value("jobs.failures", type=OTHER)
        )

    await eventually(is_counted)
    await worker.stop()


def test_types_of_strangers_do_not_make_series_without_end() -> None:
    measures = Measures("0")
    assert [measures.label(f"type-{number}") for number in range(MAX_TYPES)][-1] == f"type-{MAX_TYPES - 1}"
    assert measures.label("one-more") == OTHER
    assert measures.label("type-0") == "type-0"


def test_the_names_are_those_that_the_page_lists() -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    listed = set(re.findall(r"^\| `(jobs\.[a-z_.]+)` \|", page, re.MULTILINE))
    assert listed == {
        *(
            f"jobs.{name}"
            for name in ("submitted", "enqueued", "completions", "failures", "retries", "snoozes", "dead_lettered")
        ),
        *("jobs.cancellations", "jobs.run.duration", "jobs.wait.duration", "jobs.running"),
        *("jobs.queue.depth", "jobs.dead_letters.waiting"),
    }
