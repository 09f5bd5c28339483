"""The facade: what users give, and what they get told."""

import asyncio
from collections.abc import Callable

import pytest
from pydantic import BaseModel, ValidationError

from jsjobs import JobService
from jsjobs.postgres.errors import DatabaseUnavailable


class Order(BaseModel):
    number: int


async def test_what_cannot_be_submitted_is_named_and_nothing_is_queued(jobs: JobService) -> None:
    jobs.register_handler("order", lambda payload: payload, retry=None)

    async def typed(payload: Order) -> None: ...

    jobs.register_handler("typed.order", typed)
    for call, what in [
        (jobs.submit("no type", 1), "job type"),
        (jobs.submit("order.", 1), "job type"),
        (jobs.submit("order", float("nan")), "payload of order is not JSON"),
        (jobs.submit("order", object()), "cannot be written as JSON"),
        (jobs.submit("order", "\ud800"), "cannot be written as JSON"),
        (jobs.submit("order", 1, priority="urgent"), "priority"),
        (jobs.submit("order", 1, entity=""), "entity"),
        (jobs.submit("order", 1, entity="a\nb"), "entity"),
        (jobs.submit("order", 1, dedupe_key="x" * 300), "dedupe_key"),
        (jobs.submit("order", 1, max_attempts=0), "max_attempts"),
        (jobs.submit("order", 1, timeout=-1), "timeout"),
        (jobs.submit("order", 1, duration="forever"), "duration"),
        (jobs.submit("typed.order", {"number": "x"}), "number"),
        (jobs.submit("typed.order", [{"number": 1}, {"number": "x"}]), "item 1"),
        (jobs.submit("order", "x" * 2_000_000), "max_payload"),
    ]:
        with pytest.raises(JobService.Error, match=what) as caught:
            await call
        assert caught.value.reason == "Validation", what
    first = await jobs.submit("order", 1)
    connection = jobs.connection
    assert (
        await connection.ask(b"$JS.API.STREAM.INFO.%b_NORMAL_PARALLEL" % jobs.config.namespace.upper().encode())
    ).data.count(b'"messages":1,') == 1
    assert first


async def test_a_list_is_a_batch_and_a_payload_that_is_a_list_is_one_job(jobs: JobService) -> None:
    @jobs.handler("echo")
    async def echo(payload: object, ctx: JobService.Context) -> list[object]:
        return [payload, ctx.batch_id]

    ids = await jobs.submit("echo", [1, 2, 3], entity="e")
    [single] = await jobs.submit("echo", [[1, 2, 3]])
    assert await jobs.submit("echo", []) == []
    async with jobs.worker():
        results = [await jobs.result(job_id) for job_id in ids]
        assert (await jobs.result(single))[0] == [1, 2, 3]
    assert [payload for payload, _ in results] == [1, 2, 3]
    batches = {batch for _, batch in results}
    assert len(batches) == 1
    assert {(await jobs.status(job_id)).batch_id for job_id in ids} == batches


async def test_the_same_dedupe_key_is_the_same_job_for_one_tenant_type_and_priority(jobs: JobService) -> None:
    first = await jobs.submit("a", 1, dedupe_key="k")
    again = await jobs.enqueue("a", 1, dedupe_key="k")
    assert (again, first.duplicate, again.duplicate) == (first, False, True)
    assert not (await jobs.submit("b", 1, dedupe_key="k")).duplicate
    for priority in ("critical", "high", "low"):
        other = await jobs.submit("a", 1, dedupe_key="k", priority=priority)
        assert (other.duplicate, other == first) == (False, False)
        assert (await jobs.submit("a", 1, dedupe_key="k", priority=priority)) == other
    with jobs.request_context(tenant_id="other"):
        assert not (await jobs.submit("a", 1, dedupe_key="k")).duplicate
    for tenant, job_type, key in [("x/a", "b", "k"), ("x", "a", "b/k"), ("x%2Fa", "b", "k")]:
        with jobs.request_context(tenant_id=tenant):
            assert not (await jobs.submit(job_type, 1, dedupe_key=key)).duplicate


async def test_what_a_handler_submits_carries_its_context_on(jobs: JobService) -> None:
    @jobs.handler("outer")
    async def outer(payload: object) -> str:
        return await jobs.submit("inner")

    @jobs.handler("inner")
    def inner(payload: object, ctx: JobService.Context) -> list[str | None]:
        return [ctx.tenant_id, ctx.request_id]

    with jobs.request_context(tenant_id="acme", request_id="r-1"):
        job_id = await jobs.submit("outer")
    async with jobs.worker():
        assert await jobs.result(await jobs.result(job_id)) == ["acme", "r-1"]


async def test_results_of_unknown_failed_and_slow_jobs(jobs: JobService) -> None:
    for unknown in ("critical-1", "nonsense", "at-x", "normal-9999999999999999", ""):
        with pytest.raises(JobService.Error) as caught:
            await jobs.status(unknown)
        assert caught.value.reason == "NotFound", unknown
    waiting = await jobs.submit("nobody.runs.it")
    with pytest.raises(JobService.Error, match=r"is queued after 0\.1 s") as caught:
        await jobs.result(waiting, timeout=0.1)
    assert caught.value.reason == "Timeout"
    async with jobs.worker():
        with pytest.raises(JobService.Error) as caught:
            await jobs.result(waiting)
    assert (caught.value.reason, caught.value.job_id) == ("HandlerMissing", waiting)


async def test_watching_and_progress_end_with_the_job(jobs: JobService) -> None:
    go_on = asyncio.Event()

    @jobs.handler("slow")
    async def slow(payload: object, ctx: JobService.Context) -> None:
        for pct in range(0, 101, 10):
            ctx.report_progress(pct, f"{pct} %")
            await asyncio.sleep(0.01)
        await go_on.wait()

    job_id = await jobs.submit("slow")
    updates = []

    async def follow() -> None:
        async for update in jobs.progress(job_id):
            updates.append(update)
            if update.pct == 100:
                go_on.set()

    following = asyncio.ensure_future(follow())
    async with jobs.worker():
        seen = [status.status async for status in jobs.watch(job_id)]
        await following
    assert seen[-1] == "complete"
    assert (updates[0].pct, updates[-1].message) == (0, "100 %")
    assert [update.pct async for update in jobs.progress(job_id)] == [update.pct for update in updates]


async def test_a_service_that_is_not_connected_says_so(config: JobService.Config) -> None:
    jobs = JobService(config)
    with pytest.raises(JobService.Error, match="not connected"):
        await jobs.submit("t")
    with pytest.raises(JobService.Error, match="not connected"):
        jobs.worker()


def test_settings_that_cannot_be_used_are_named_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSJOBS_ACK_WAIT", "s3cret")
    monkeypatch.setenv("JSJOBS_POOLS", '{"critical": 0}')
    monkeypatch.setenv("JSJOBS_MAX_DELIVER", "1999")
    monkeypatch.setenv("JSJOBS_RETRY", '{"max_retries": 1000}')
    monkeypatch.setenv("JSJOBS_RESULT_TTL", "3599")
    with pytest.raises(JobService.Error) as caught:
        JobService()
    assert "ack_wait" in str(caught.value)
    assert "pools.critical" in str(caught.value)
    assert "max_deliver: Input should be greater than or equal to 2000" in str(caught.value)
    assert "retry.max_retries: Input should be less than or equal to 999" in str(caught.value)
    assert "result_ttl: Input should be greater than or equal to 3600" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValidationError) as raised:  # by who makes the settings without us
        JobService.Config()
    assert "ack_wait" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_database_is_asked_for_only_where_it_is_needed(settings_of: Callable[..., JobService.Config]) -> None:
    with pytest.raises(JobService.Error, match="DATABASE_URL"):
        _ = JobService(settings_of(database_url=None)).dlq


def unreadable(payload: "asyncio.nothing") -> None: ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda: None, "takes no payload: write it as `def handler"),
        (lambda a, b, c: None, "takes 'a' and 'b' and 'c'"),
        ("no function", "must be a function"),
        (dict, "cannot be read"),
        (unreadable, "AttributeError"),
    ],
)
def test_what_cannot_be_a_handler_is_refused(config: JobService.Config, function: object, what: str) -> None:
    with pytest.raises(JobService.Error, match=what):
        JobService(config).register_handler("t", function)


def test_a_type_has_one_handler(config: JobService.Config) -> None:
    jobs = JobService(config)
    jobs.register_handler("t", lambda payload: payload)
    with pytest.raises(JobService.Error, match="already has a handler"):
        jobs.register_handler("t", lambda payload: payload)


async def test_a_replay_at_a_priority_that_does_not_exist_is_refused(jobs: JobService) -> None:
    with pytest.raises(JobService.Error, match="one of critical, high, normal, low, not 'urgent'") as caught:
        await jobs.replay("replay", priority="urgent")
    assert caught.value.reason == "Validation"


async def test_a_sibling_has_the_handlers_and_a_connection_of_its_own(jobs: JobService) -> None:
    jobs.register_handler("echo", lambda payload: payload)
    async with jobs.sibling() as other:
        assert other.types == jobs.types == ["echo"]
        assert other.connection is not jobs.connection
        job_id = await other.submit("echo", 1)
    assert jobs.connection.is_connected
    assert (await jobs.status(job_id)).status == "queued"


async def test_a_connection_that_cannot_be_closed_keeps_no_database_open(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, database = jobs.connection.close, jobs.database()
    async with database.connection() as lent:
        assert await lent.fetchval("SELECT 1") == 1

    async def fail() -> None:
        await close()
        raise OSError("as it was asked to")

    monkeypatch.setattr(jobs.connection, "close", fail)
    with pytest.raises(OSError, match="as it was asked to"):
        await jobs.close()
    with pytest.raises(DatabaseUnavailable, match="was closed by this program"):
        async with database.connection():
            pass
    await jobs.close()  # once more is no error
