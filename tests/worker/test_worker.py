"""What a worker does with jobs, on a real server."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import Names


class Mail(BaseModel):
    to: str


async def test_typed_payloads_and_results_and_the_whole_context(jobs: JobService) -> None:
    seen = {}

    @jobs.handler("mail")
    async def send(payload: Mail, ctx: JobService.Context) -> Mail:
        seen.update(
            {
                name: getattr(ctx, name)
                for name in ("job_id", "type", "priority", "entity", "tenant_id", "attempt", "batch_id")
            }
        )
        seen["context"] = jobs.current_context()
        return Mail(to=payload.to.upper())

    with jobs.request_context(tenant_id="acme", request_id="r-1"):
        job_id = await jobs.submit("mail", Mail(to="ä@b"), priority="high", entity="customer 42/é")
    async with jobs.worker():
        assert await jobs.result(job_id) == {"to": "Ä@B"}
    context = seen.pop("context")
    assert seen == {
        "job_id": job_id,
        "type": "mail",
        "priority": "high",
        "entity": "customer 42/é",
        "tenant_id": "acme",
        "attempt": 1,
        "batch_id": None,
    }
    assert (context.tenant_id, context.request_id, context.entity_id, context.entity_type) == (
        "acme",
        "r-1",
        "customer 42/é",
        "mail",
    )
    assert context.within_worker


async def test_a_flaky_job_reads_as_what_happened(jobs: JobService) -> None:
    @jobs.handler("flaky")
    async def flaky(payload: object, ctx: JobService.Context) -> int:
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return ctx.attempt

    job_id = await jobs.submit("flaky")
    async with jobs.worker():
        assert await jobs.result(job_id) == 3
    status = await jobs.status(job_id)
    assert [item.status for item in status.history] == ["processing", "queued"] * 2 + ["processing", "complete"]
    assert [item.error for item in status.history if item.error] == [
        "ConnectionError: attempt 1",
        "ConnectionError: attempt 2",
    ]
    gaps = [
        (later.timestamp - earlier.timestamp).total_seconds()
        for earlier, later in zip(status.history[1::2], status.history[2::2], strict=False)
    ]
    assert gaps[0] >= 0.08
    assert gaps[1] >= 0.16


async def test_a_handler_s_own_retry_policy_and_the_job_s_attempts(jobs: JobService) -> None:
    runs = 0

    async def failing(payload: object) -> None:
        nonlocal runs
        runs += 1
        raise ValueError(runs)

    jobs.register_handler("patient", failing, retry=JobService.Retry(initial=0.01, max_retries=9, jitter=(1, 1)))
    job_id = await jobs.submit("patient", max_attempts=8)  # the default policy gives up after six
    async with jobs.worker():
        with pytest.raises(JobService.Error, match="ValueError: 8") as caught:
            await jobs.result(job_id)
    assert (caught.value.reason, runs) == ("MaxRetries", 8)


async def test_plain_handlers_run_beside_each_other_and_the_loop(jobs: JobService) -> None:
    together = threading.Barrier(3, timeout=10)

    @jobs.handler("plain")
    def plain(payload: int, ctx: JobService.Context) -> str:
        together.wait()
        ctx.report_progress(50, "half")
        return threading.current_thread().name

    # Three shards of one priority, three jobs that only end when all three run at once.
    found: dict[int, str] = {}
    number, queue = 0, JobQueue(jobs.connection, Names(jobs.config.namespace))
    async with jobs.worker():
        while len(found) < 3:
            entity = f"e{number}"
            number += 1
            token = queue.job(JobService.Priority.HIGH, entity, "plain", b"").subject
            shard = await partition(jobs, token)
            if shard not in found:
                found[shard] = await jobs.submit("plain", number, priority="high", entity=entity)
        names = [await jobs.result(job_id) for job_id in found.values()]
        updates = [update async for update in jobs.progress(found[0])]
    assert len(set(names)) == 3
    assert [(update.pct, update.message) for update in updates] == [(50, "half")]


async def partition(jobs: JobService, subject: bytes) -> int:
    """Which of three shards the server gives a subject: FNV-1a of the entity's token, modulo the count."""
    value = 2166136261
    for byte in subject.split(b".")[2]:
        value = ((value ^ byte) * 16777619) % 2**32
    return value % 3


async def test_a_short_job_past_its_own_limit_times_out_and_is_retried(jobs: JobService) -> None:
    @jobs.handler("slow")
    async def slow(payload: object, ctx: JobService.Context) -> int:
        if ctx.attempt == 1:
            await asyncio.sleep(60)
        return ctx.attempt

    job_id = await jobs.submit("slow", timeout=0.1)
    async with jobs.worker():
        assert await jobs.result(job_id) == 2
    assert (await jobs.status(job_id)).last_error == "Timeout: the handler ran longer than 0.1 s"


async def test_a_short_job_without_a_limit_of_its_own_ends_within_its_lease(jobs: JobService) -> None:
    @jobs.handler("slow")
    async def slow(payload: object, ctx: JobService.Context) -> int:
        if ctx.attempt == 1:
            await asyncio.sleep(60)
        return ctx.attempt

    job_id = await jobs.submit("slow")
    async with jobs.worker():
        assert await jobs.result(job_id, 20) == 2
    lease = LeaseTime(jobs.config.ack_wait).lease
    assert (await jobs.status(job_id)).last_error == f"Timeout: the handler ran longer than {lease:g} s"


async def test_a_thread_that_outlives_ack_wait_keeps_its_shard_to_itself(jobs: JobService) -> None:
    running, most, threads = 0, 0, []
    lock = threading.Lock()

    @jobs.handler("stubborn")
    def stubborn(payload: object, ctx: JobService.Context) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threads.append(ctx.attempt)
        if ctx.attempt == 1:
            until = time.monotonic() + jobs.config.ack_wait * 1.6  # whatever it is told
            while time.monotonic() < until:
                time.sleep(0.01)
        with lock:
            running -= 1
        return "done"

    job_id = await jobs.submit("stubborn", timeout=0.2)
    async with jobs.worker():
        assert await jobs.result(job_id) == "done"
    status = await jobs.status(job_id)
    assert (threads, most, status.attempts) == ([1, 2], 1, 2)
    assert status.last_error.startswith("Timeout")


async def test_an_unknown_type_and_unreadable_messages_cost_only_themselves(jobs: JobService, plain) -> None:
    @jobs.handler("echo")
    async def echo(payload: dict[str, int]) -> dict[str, int]:
        return payload

    stream, prefix = plain.jetstream(), f"{jobs.config.namespace}.low.e"
    expected = {}
    for subject, body, headers, reason in [
        ("unknown", b"{}", None, "HandlerMissing"),
        ("echo", b"", None, "Validation"),
        ("echo", b"no json", None, "Validation"),
        ("echo", b"{}", {"Jsjobs-Timeout": "soon"}, "Validation"),
        ("echo", b"{}", {"Jsjobs-Max-Attempts": "0"}, "Validation"),
        ("echo", b"{}", {"Jsjobs-Id": "critical-1"}, "Validation"),
    ]:
        receipt = await stream.publish(f"{prefix}.{subject}", body, headers=headers)
        expected[f"low-{receipt.seq}"] = reason
    good = await jobs.submit("echo", {"n": 1}, priority="low", entity="e")
    async with jobs.worker():
        assert await jobs.result(good) == {"n": 1}
    for job_id, reason in expected.items():
        status = await jobs.status(job_id)
        assert (status.status, status.error_reason, status.attempts) == ("failed", reason, 1)


async def test_what_can_be_read_of_broken_headers_is_kept(jobs: JobService, plain) -> None:
    subject = f"{jobs.config.namespace}.due.low.e.echo"
    headers = {"Jsjobs-Id": "replay-1-x", "Jsjobs-Tenant": "acme", "Jsjobs-Entity": "e", "Jsjobs-Timeout": "soon"}
    await plain.jetstream().publish(subject, b"{}", headers=headers)
    async with jobs.worker():
        status = await eventually(lambda: jobs.status("replay-1-x"))
        with pytest.raises(JobService.Error, match="Jsjobs-Timeout"):
            await jobs.result("replay-1-x")
    assert (status.tenant, status.entity) == ("acme", "e")


async def test_a_result_too_large_for_a_message_fails_its_job_and_says_so(jobs: JobService) -> None:
    @jobs.handler("big")
    async def big(payload: int) -> str:
        return "x" * payload

    job_id = await jobs.submit("big", 2_000_000)
    async with jobs.worker():
        with pytest.raises(JobService.Error, match="result of 2000002 bytes cannot be kept") as caught:
            await jobs.result(job_id)
    assert caught.value.reason == "Validation"


async def test_a_graceful_stop_lets_short_jobs_end_and_gives_the_rest_back(jobs: JobService) -> None:
    at_work = asyncio.Barrier(3)
    second = JobService(jobs.config)

    async def handler(payload: float, ctx: JobService.Context) -> int:
        if ctx.attempt == 1 and not second_runs:
            await at_work.wait()
            await asyncio.sleep(payload)
        return ctx.attempt

    second_runs = False
    jobs.register_handler("t", handler)
    second.register_handler("t", handler)
    quick = await jobs.submit("t", 0.05, priority="low")
    slow = await jobs.submit("t", 60, priority="high")
    worker = jobs.worker()
    await worker.start()
    await at_work.wait()
    waiting = await jobs.submit("t", 0, priority="low")  # behind the quick one
    await worker.stop(grace=0.3)
    second_runs = True
    assert (await jobs.status(quick)).status == "complete"
    released = await jobs.status(slow)
    assert (released.status, released.attempts, released.last_error) == ("queued", 0, None)
    assert [item.status for item in released.history] == ["processing", "queued"]
    async with second, second.worker():
        # It comes back at once, not after ack_wait, and as its first attempt.
        assert await second.result(slow) == 1
        assert await second.result(waiting) == 1


async def test_a_worker_started_before_the_streams_begins_when_they_exist(config, deploy, caplog) -> None:
    jobs = JobService(config)

    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    async with jobs, jobs.worker() as worker:
        assert not worker.ready
        assert "run `jsjobs streams apply`" in caplog.text
        await deploy(config)
        job_id = await jobs.submit("echo", 1)
        assert await jobs.result(job_id) == 1
        assert await eventually(lambda: is_ready(worker))


async def is_ready(worker) -> bool:
    return worker.ready


async def test_a_deleted_consumer_is_noticed_and_its_jobs_run_once_it_is_back(jobs: JobService, deploy, caplog) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    connection, stream = jobs.connection, f"{jobs.config.namespace.upper()}_LOW"
    async with jobs.worker() as worker:
        assert worker.ready
        await call(connection, f"CONSUMER.DELETE.{stream}.low-1x1-0")
        assert await eventually(lambda: is_unready(worker))
        assert "consumers are missing: low-1x1-0" in caplog.text
        job_id = await jobs.submit("echo", 1, priority="low")
        await deploy(jobs.config)
        assert await jobs.result(job_id) == 1
        assert await eventually(lambda: is_ready(worker))


async def is_unready(worker) -> bool:
    return not worker.ready


async def test_finished_jobs_get_a_time_to_live_and_live_ones_do_not(jobs: JobService) -> None:
    @jobs.handler("t")
    async def handler(payload: object, ctx: JobService.Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("once")

    job_id = await jobs.submit("t")
    async with jobs.worker():
        await jobs.result(job_id)
    bucket = f"KV_{jobs.config.namespace}"
    info = await call(jobs.connection, f"STREAM.INFO.{bucket}")
    last = await find(jobs.connection, f"STREAM.MSG.GET.{bucket}", {"seq": info["state"]["last_seq"]})
    assert f"Nats-TTL: {int(jobs.config.result_ttl)}s" in base64.b64decode(last["message"]["hdrs"]).decode()


async def test_a_hundred_tenants_at_once_never_see_each_other(jobs: JobService) -> None:
    @jobs.handler("who")
    async def who(payload: str) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
            if jobs.current_context().tenant_id != payload:
                return False
        return True

    ids = []
    for number in range(100):
        with jobs.request_context(tenant_id=f"tenant-{number}"):
            ids.append(await jobs.submit("who", f"tenant-{number}", priority="critical"))
    async with jobs.worker():
        assert all([await jobs.result(job_id) for job_id in ids])


async def test_created_at_is_the_server_s_clock(jobs: JobService) -> None:
    job_id = await jobs.submit("t")
    created = (await jobs.status(job_id)).created_at
    assert abs((datetime.now(UTC) - created).total_seconds()) < 5


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1.5)


async def test_failures_are_logged_with_their_traceback_and_deaths_as_errors(jobs: JobService, caplog) -> None:
    @jobs.handler("bad")
    async def bad(payload: object) -> None:
        raise RuntimeError("the printer is on fire")

    job_id = await jobs.submit("bad", max_attempts=2)
    async with jobs.worker():
        with pytest.raises(JobService.Error):
            await jobs.result(job_id)
    first, second = (record for record in caplog.records if "attempt" in record.message)
    assert (first.levelname, second.levelname) == ("WARNING", "ERROR")
    assert (
        f"job {job_id} (bad): attempt 1 of 2 failed, the next attempt in 0.1 s: RuntimeError: the printer"
        in first.message
    )
    assert "attempt 2 of 2 failed, the job is dead" in second.message
    assert "test_worker.py" in caplog.text


async def test_a_worker_says_where_its_settings_ask_for_other_shards(deploy, settings_of, caplog) -> None:
    await deploy(settings_of())
    jobs = JobService(settings_of(scale=2))
    async with jobs, jobs.worker():
        assert "low has 1 shards on the server, and this worker serves them all; its settings say 2" in caplog.text


async def test_a_worker_whose_settings_ask_for_no_shards_says_nothing_of_them(deploy, settings_of, caplog) -> None:
    await deploy(settings_of(pools={"low": 3, "high": 1}))
    jobs = JobService(settings_of(pools={"high": 2}))
    async with jobs, jobs.worker():
        assert "high has 1 shards" in caplog.text
        assert "low has" not in caplog.text
