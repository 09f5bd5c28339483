"""Each endpoint does what the method of its name does, and says what went wrong in its headers."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from rpc_client import Asking

from facts import eventually
from jsjobs import JobService
from jsjobs.rpc import Rpc

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_submit_names_the_batch_of_its_job(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    request = {"type": "t", "dedupe_key": "order-8"}
    named = await ask.done("submit", {**request, "batch_id": "import-7"})
    again = await ask.done("submit", {**request, "batch_id": "another"})
    assert named == {"job_id": named["job_id"], "duplicate": False, "batch_id": "import-7"}
    assert again == {"job_id": named["job_id"], "duplicate": True, "batch_id": "import-7"}
    assert (await ask.done("status", {"job_id": named["job_id"]}))["batch_id"] == "import-7"


async def test_submit_result_and_status(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    seen: dict[str, Any] = {}

    @jobs.handler("echo.it")
    async def echo(payload: Any, ctx: JobService.Context) -> Any:
        seen.update(
            priority=ctx.priority, entity=ctx.entity, tenant=ctx.tenant_id, request=ctx.request_id, batch=ctx.batch_id
        )
        seen["trace"] = jobs.current_context().trace
        return payload

    payload = {"a": None, "ü": [1, {"b": None}], "big": 2**60}
    request = {
        "type": "echo.it",
        "payload": payload,
        "priority": "high",
        "entity": "customer 42",
        "dedupe_key": "order-7",
        "max_attempts": 2,
        "duration": "long",
        "timeout": 10,
        "tenant": "acme",
        "request_id": "r-1",
    }
    async with jobs.worker():
        headers = {"traceparent": TRACE, "tracestate": "a=1"}
        receipt = await ask.done("submit", request, headers=headers)
        assert receipt == {"job_id": receipt["job_id"], "duplicate": False}
        assert await ask.done("submit", request) == {"job_id": receipt["job_id"], "duplicate": True}
        result = await ask.done("result", {"job_id": receipt["job_id"], "timeout": 10})
        assert result == {"job_id": receipt["job_id"], "result": payload}
    assert seen == {
        "priority": "high",
        "entity": "customer 42",
        "tenant": "acme",
        "request": "r-1",
        "batch": None,
        "trace": (TRACE, "a=1"),
    }
    status = await ask.done("status", {"job_id": receipt["job_id"]})
    assert JobService.Response.Status.model_validate(status) == await jobs.status(receipt["job_id"])
    assert (status["status"], status["max_attempts"], status["result"]) == ("complete", 2, payload)


@pytest.mark.parametrize("expires", [0.05, "2100-01-01T00:00:00+01:00"])
async def test_an_expiry_is_seconds_or_a_time(jobs: JobService, rpc: Rpc, ask: Asking, expires: Any) -> None:
    jobs.register_handler("echo", lambda payload: payload)
    request = {"type": "echo", "payload": 1, "expires": expires, "expired": "drop"}
    receipt = await ask.done("submit", request)
    await asyncio.sleep(0.1)  # the time that this is about
    async with jobs.worker():
        answer = await ask("result", {"job_id": receipt["job_id"]})
    assert answer.code == (409 if expires == 0.05 else None)
    assert "the job expired" in answer.error or answer.value["result"] == 1


@pytest.mark.parametrize("payload", [[], [1, 2], [[1], [2]], None, "text", 0, False])
async def test_a_payload_is_always_one_job(jobs: JobService, rpc: Rpc, ask: Asking, payload: Any) -> None:
    jobs.register_handler("echo", lambda payload: payload)
    receipt = await ask.done("submit", {"type": "echo", "payload": payload})
    async with jobs.worker():
        result = await ask.done("result", {"job_id": receipt["job_id"]})
    assert result["result"] == payload
    assert (await jobs.status(receipt["job_id"])).batch_id is None


async def test_nothing_of_the_servers_own_context_is_taken_over(
    config: JobService.Config, deploy: Any, ask: Asking
) -> None:
    await deploy(config)
    with JobService.request_context(tenant_id="the host's", request_id="its own"):
        async with JobService(config) as jobs, Rpc(jobs):
            receipt = await ask.done("submit", {"type": "echo"})
            assert (await jobs.status(receipt["job_id"])).tenant is None


async def test_a_tenants_own_subject(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    receipt = await ask.done("tenant.acme%20%2E%C3%A9.submit", {"type": "echo", "payload": 1, "dedupe_key": "k"})
    assert (await jobs.status(receipt["job_id"])).tenant == "acme .é"
    named = await ask.done("tenant.acme.submit", {"type": "echo", "tenant": "acme", "dedupe_key": "k"})
    assert (await jobs.status(named["job_id"])).tenant == "acme"
    assert not named["duplicate"], "a key is nobody else's"
    refused = await ask("tenant.acme.submit", {"type": "echo", "tenant": "other"})
    assert (refused.code, refused.error) == (
        400,
        "Validation: the subject belongs to tenant 'acme', the request names another",
    )


@pytest.mark.parametrize("token", ["a%2e", "a%", "%FF", "a~b", "%20a", "%61", "t" * 257, "%0A", "a*b"])
async def test_a_tenant_has_one_subject(rpc: Rpc, ask: Asking, token: str) -> None:
    refused = await ask(f"tenant.{token}.submit", {"type": "echo"})
    assert refused.outcome == (400, "Validation")
    assert "is not a tenant" in refused.error


async def test_results_of_jobs_that_failed_or_were_cancelled(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    class Form(BaseModel):
        n: int

    @jobs.handler("raises")
    async def raises(reason: str) -> None:
        raise JobService.Error(reason, f"on purpose\r\nNats-Service-Error-Code: 200 {'ü' * 5000}")

    reasons = ("NotFound", "Validation", "AlreadyCancelled", "HandlerMissing")
    submitted = {reason: await jobs.submit("raises", reason, max_attempts=1) for reason in reasons}
    submitted |= {
        reason: await jobs.submit("raises", reason, max_attempts=1) for reason in ("Timeout", "RunnerUnavailable")
    }
    cancelled = await jobs.submit("raises", "Validation", priority="low")
    await jobs.cancel(cancelled)
    async with jobs.worker():
        for reason, job_id in submitted.items():
            answer = await ask("result", {"job_id": job_id})
            assert answer.code == 409, "it is the job that failed, not the request"
            assert answer.error.partition(":")[0] in {reason, "MaxRetries"}
            assert "on purpose Nats-Service-Error-Code: 200" in answer.error
            assert len(answer.error) <= 1000
    answer = await ask("result", {"job_id": cancelled})
    assert (answer.code, answer.error) == (409, f"AlreadyCancelled: job {cancelled} was cancelled")


async def test_waiting_for_a_result_ends_with_its_timeout(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    job_id = await jobs.submit("nobody.runs.this")
    answer = await ask("result", {"job_id": job_id, "timeout": 0.2})
    assert (answer.code, answer.error) == (503, f"Timeout: job {job_id} is queued after 0.2 s")


async def test_cancel_waiting_and_running_jobs(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    stopped = asyncio.Event()

    @jobs.handler("sleep")
    async def sleep(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    waiting = await jobs.submit("sleep", priority="low", entity="e")
    answer = await ask.done("cancel", {"job_id": waiting})
    assert (answer["job_id"], answer["status"], answer["attempts"]) == (waiting, "cancelled", 0)
    running = await jobs.submit("sleep", duration="long")
    async with jobs.worker():

        async def runs() -> bool:
            return (await jobs.status(running)).status == "processing"

        await eventually(runs)
        answer = await ask.done("cancel", {"job_id": running, "timeout": 10})
        assert (answer["status"], stopped.is_set()) == ("cancelled", True)
        again = await ask("cancel", {"job_id": running})
        assert again.outcome == (409, "AlreadyCancelled")
        jobs.register_handler("echo", lambda payload: payload)
        done = await jobs.submit("echo", 1)
        await jobs.result(done)
        ended = await ask("cancel", {"job_id": done})
        assert ended.code == 409
        assert f"job {done} cannot be cancelled: it is already complete" in ended.error


async def test_progress_is_many_answers_and_an_empty_one(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    go = asyncio.Event()

    @jobs.handler("steps")
    async def steps(_: Any, ctx: JobService.Context) -> None:
        await ctx.report_progress(10, "first")
        await go.wait()
        await ctx.report_progress(100)

    job_id = await jobs.submit("steps")
    async with jobs.worker(), ask.many("progress", {"job_id": job_id}) as answers:
        first = await anext(answers)
        assert (first.value["pct"], first.value["message"]) == (10.0, "first")
        assert set(first.value) == {"pct", "message", "timestamp"}
        go.set()
        rest = [answer async for answer in answers]
    assert [answer.value and answer.value["pct"] for answer in rest] == [100.0, None]
    assert [answer.code for answer in rest] == [None, None]
    async with ask.many("progress", {"job_id": job_id}) as answers:
        assert [answer.value and answer.value["pct"] async for answer in answers] == [10.0, 100.0, None]


async def test_replay(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    @jobs.handler("always.fails")
    async def fails(_: Any) -> None:
        raise JobService.Error("Validation", "never")

    job_id = await jobs.submit("always.fails", 1, priority="high")
    async with jobs.worker(), jobs.router():

        async def letter() -> Any:
            return await jobs.dlq.list(limit=1)

        row = (await eventually(letter))[0]
    assert row.original_job_id == job_id
    replayed = await ask.done("replay", {"dlq_id": str(row.id), "priority": "low"})
    assert replayed["job_id"].startswith("replay-")
    assert (await jobs.status(replayed["job_id"])).priority == "low"
    again = await ask("replay", {"dlq_id": str(row.id)})
    assert again.outcome == (400, "Validation")
    assert "replayed" in again.error
    forced = await ask.done("replay", {"dlq_id": job_id, "force": True})
    assert forced["job_id"] not in {replayed["job_id"], job_id}


async def test_replay_needs_a_database(settings_of: Any, deploy: Any, ask: Asking, monkeypatch: Any) -> None:
    for name in ("DATABASE_URL", "JSJOBS_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = settings_of(database_url=None)
    await deploy(config)
    async with JobService(config) as jobs, Rpc(jobs):
        info = (await ask.client.request(f"$SRV.INFO.{config.namespace}")).data
        assert b"rpc.status" in info
        assert b"rpc.replay" not in info
