"""Waiting for many results at once, results that are too large, and results that age."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial

import pytest

from facts import eventually, state_of, subscriptions
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Status, utc_now

MIB = 2**20


@pytest.fixture
async def worked(jobs: JobService) -> AsyncIterator[JobService]:
    """A service with a worker."""

    @jobs.handler("echo")
    async def echo(payload: object) -> object:
        return payload

    @jobs.handler("fail")
    async def fail(payload: str) -> None:
        raise JobError.from_validation(payload)

    @jobs.handler("large")
    async def large(size: int) -> str:
        return "x" * size

    @jobs.handler("stays", retry=None)
    async def stays(payload: object) -> None:
        await asyncio.sleep(3600)

    async with jobs.worker():
        yield jobs


async def test_a_thousand_results_at_once_leave_nothing_behind(jobs: JobService) -> None:
    @jobs.handler("square")
    async def square(payload: int) -> int:
        return payload * payload

    async with JobService(jobs.config) as client:
        ids = await client.submit("square", list(range(1000)), priority="critical")
        waiting = asyncio.ensure_future(client.results(ids, timeout=60))
        singly = [asyncio.ensure_future(client.result(job_id, timeout=60)) for job_id in ids]
        await eventually(lambda: subscriptions(client.connection) == 1001)
        consumers = await all_consumers(client)
        async with jobs.worker():
            assert await waiting == [n * n for n in range(1000)]
            assert await asyncio.gather(*singly) == [n * n for n in range(1000)]
            assert await all_consumers(client) == consumers, "nobody made a consumer"
        await eventually(lambda: subscriptions(client.connection) == 1)
        assert await client.results(ids) == [n * n for n in range(1000)]


async def all_consumers(jobs: JobService) -> int:
    streams = (await call(jobs.connection, "STREAM.LIST"))["streams"]
    own = (f"{jobs.config.namespace.upper()}_", f"KV_{jobs.config.namespace}")
    return sum(stream["state"]["consumer_count"] for stream in streams if stream["config"]["name"].startswith(own))


async def test_results_come_in_the_order_of_the_ids_however_often_each_is_asked(worked: JobService) -> None:
    ids = await worked.submit("echo", ["a", {"b": None}, [3]])
    asked = [ids[2], ids[0], ids[2], ids[1]]
    assert await worked.results(asked) == [[3], "a", [3], {"b": None}]
    assert await worked.results(iter(asked)) == [[3], "a", [3], {"b": None}]
    assert await worked.results([]) == []
    for one_or_more in (asked[0], dict.fromkeys(asked[:1]), dict.fromkeys(asked[:1]).keys(), set(asked[:1])):
        assert await worked.results(one_or_more) == [[3]]
        assert [status.result async for status in worked.as_ended(one_or_more)] == [[3]]


async def test_the_first_failed_job_raises_its_own_error(worked: JobService) -> None:
    before = subscriptions(worked.connection)
    going_on = await worked.submit("stays", 1, duration="long", entity="stays", priority="low")
    failed = await worked.submit("fail", "no good")
    with pytest.raises(JobService.Error, match="no good") as caught:
        await worked.results([going_on, failed], timeout=30)
    assert (caught.value.reason, caught.value.job_id) == ("Validation", failed)
    await eventually(lambda: subscriptions(worked.connection) == before)
    await worked.cancel(going_on)
    with pytest.raises(JobService.Error) as caught:
        await worked.results([going_on])
    assert (caught.value.reason, caught.value.job_id) == ("AlreadyCancelled", going_on)


async def test_errors_in_their_places(worked: JobService) -> None:
    subscriptions(worked.connection)
    going_on = await worked.submit("stays", 1, duration="long", priority="low")
    asked = [going_on, await worked.submit("echo", 1), "normal-17", await worked.submit("fail", "bad"), "nonsense"]
    late, one, unknown, failed, nonsense = await worked.results(asked, timeout=2, return_exceptions=True)
    assert one == 1
    told = [(error.reason, error.job_id) for error in (late, unknown, failed, nonsense)]
    assert told == [
        ("Timeout", going_on),
        ("NotFound", "normal-17"),
        ("Validation", asked[3]),
        ("NotFound", "nonsense"),
    ]
    assert "has not ended after 2 s" in late.message
    with pytest.raises(JobService.Error, match=r"1 of 2 jobs not ended after 0\.2 s, such as low-") as caught:
        await worked.results([asked[1], going_on, going_on], timeout=0.2)
    assert (caught.value.reason, caught.value.job_id) == ("Timeout", going_on)


async def test_jobs_are_told_as_they_end(worked: JobService) -> None:
    subscriptions(worked.connection)
    going_on = await worked.submit("stays", 1, duration="long", priority="low")
    quick = await worked.submit("echo", [1, 2])
    seen = []
    async with aclosing(worked.as_ended([going_on, *quick, quick[0]])) as ends:
        async for status in ends:
            seen.append(status.job_id)
            if len(seen) == 2:
                await worked.cancel(going_on)
    assert set(seen[:2]) == set(quick)
    assert seen[2:] == [going_on]
    with pytest.raises(JobService.Error, match="job normal-17 is not known"):
        await anext(worked.as_ended(["normal-17"]))


async def test_a_job_of_another_namespace_is_not_found(
    worked: JobService, settings_of: Callable[..., JobService.Config], deploy: Callable[..., object]
) -> None:
    other = settings_of(namespace=f"{worked.config.namespace}b")
    await deploy(other)
    job_id = await worked.submit("echo", 1)
    assert await worked.result(job_id) == 1
    async with JobService(other) as elsewhere:
        [error] = await elsewhere.results([job_id], return_exceptions=True)
    assert error.reason == "NotFound"


@pytest.mark.parametrize("ids", [b"normal-1", 5, None, {5: 1}, [5], [None], ["normal-1", b"x"]])
async def test_what_are_no_ids_is_refused(jobs: JobService, ids: object) -> None:
    for call_it in (jobs.results(ids), anext(jobs.as_ended(ids))):
        with pytest.raises(JobService.Error, match="must be a") as caught:
            await call_it
        assert caught.value.reason == "Validation"


@pytest.mark.parametrize("timeout", ["5", float("nan"), True, [1], -1])
async def test_what_is_no_timeout_is_refused(jobs: JobService, timeout: object) -> None:
    for call_it in (jobs.results(["normal-1"], timeout), jobs.result("normal-1", timeout)):
        with pytest.raises(JobService.Error, match="the timeout must be seconds") as caught:
            await call_it
        assert caught.value.reason == "Validation"


# -- too large


async def test_a_result_that_just_fits_is_whole_and_one_that_does_not_fails_its_job(worked: JobService) -> None:
    probe = await worked.submit("large", 1)
    await worked.result(probe)
    room = MIB - (await entry_size(worked, probe)) - 200  # a header grows by some digits
    fits = await worked.submit("large", room)
    assert await worked.result(fits) == "x" * room
    assert await worked.results([fits]) == ["x" * room]
    for size in (MIB, MIB - 100, 5 * MIB):
        job_id = await worked.submit("large", size)
        with pytest.raises(JobService.Error, match=f"the result of {size + 2} bytes cannot be kept") as caught:
            await worked.result(job_id)
        assert (caught.value.reason, caught.value.job_id) == ("Validation", job_id)
        assert f"the server's max_payload is {MIB}" in caught.value.message
        status = await worked.status(job_id)
        assert (status.status, status.attempts, status.result) == (Status.FAILED, 1, None)
    assert await worked.result(await worked.submit("echo", "the next job")) == "the next job"


async def test_failures_before_take_no_room_from_a_result(jobs: JobService) -> None:
    room = MIB * 3 // 4

    @jobs.handler("flaky", retry=JobService.Retry(initial=0, max_retries=999))
    async def flaky(payload: int, ctx: JobService.Context) -> str:
        if ctx.attempt <= 70:
            raise RuntimeError('"' * 5000)
        return "x" * payload

    async with jobs.worker():
        few, many = [await jobs.submit("flaky", size, max_attempts=100) for size in (9, room)]
        assert await jobs.result(few, timeout=30) == "x" * 9
        assert await jobs.result(many, timeout=30) == "x" * room
    beside, made_way = await jobs.status(few), await jobs.status(many)
    assert beside.errors_dropped == 70 - 64
    assert sum(item.error is not None for item in beside.history) == 64
    assert made_way.errors_dropped == 70
    assert all(item.error is None for item in made_way.history)
    assert made_way.history_dropped == 142 - len(made_way.history)


async def entry_size(jobs: JobService, job_id: str) -> int:
    reply = await jobs.connection.ask(
        b"$JS.API.STREAM.MSG.GET.KV_%b" % jobs.config.namespace.encode(),
        json.dumps({"last_by_subj": f"$KV.{jobs.config.namespace}.{job_id}"}).encode(),
    )
    message = json.loads(reply.data)["message"]
    return len(base64.b64decode(message["data"])) + len(base64.b64decode(message["hdrs"]))


async def test_a_result_larger_than_the_bucket_takes_fails_its_job(worked: JobService, connection: Connection) -> None:
    stream = f"KV_{worked.config.namespace}"
    config = (await call(connection, f"STREAM.INFO.{stream}"))["config"]
    await call(connection, f"STREAM.UPDATE.{stream}", {**config, "max_msg_size": 100_000})
    job_id = await worked.submit("large", 100_000)
    with pytest.raises(JobService.Error, match=r"the result of 100002 bytes cannot be kept.*max_msg_size") as caught:
        await worked.result(job_id)
    assert caught.value.reason == "Validation"
    assert len(await worked.result(await worked.submit("large", 90_000))) == 90_000


# -- age


async def headers_of(jobs: JobService, connection: Connection, job_id: str) -> str:
    subject = f"$JS.API.DIRECT.GET.KV_{jobs.config.namespace}.$KV.{jobs.config.namespace}.{job_id}"
    return (await connection.ask(subject.encode())).header.decode()


async def test_only_what_has_ended_ages(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., object], connection: Connection
) -> None:
    config = settings_of(result_ttl=5000)
    await deploy(config)
    async with JobService(config) as jobs:

        @jobs.handler("echo")
        async def echo(payload: object) -> object:
            return payload

        @jobs.handler("fail")
        async def fail(payload: object) -> None:
            raise JobError.from_validation("dead")

        @jobs.handler("stays")
        async def stays(payload: object) -> None:
            await asyncio.sleep(3600)

        @jobs.handler("fails-once", retry=JobService.Retry(initial=30))
        async def fails_once(payload: object) -> None:
            raise ValueError("once")

        @jobs.handler("snoozes")
        async def snoozes(payload: object) -> None:
            raise JobService.Snooze(30)

        waiting = await jobs.submit("echo", 1)
        await jobs.cancel(waiting)
        async with jobs.worker(), jobs.router():
            running = await jobs.submit("stays", duration="long", priority="low")
            complete, failed = await jobs.submit("echo", 2), await jobs.submit("fail", 3)
            await jobs.results([complete, failed], return_exceptions=True)
            await eventually(lambda: is_running(jobs, running))
            live = [running]
            for priority, job_type in (("high", "fails-once"), ("critical", "snoozes")):
                live.append(await jobs.submit(job_type, priority=priority))
                await eventually(partial(is_waiting_again, jobs, live[-1]))
            for job_id in live:
                assert "Nats-TTL" not in await headers_of(jobs, connection, job_id)
            await jobs.cancel(running)

            async def all_age() -> bool:
                ended = [waiting, running, complete, failed]
                return all(["Nats-TTL: 5000s" in await headers_of(jobs, connection, one) for one in ended])

            await eventually(all_age)


async def is_waiting_again(jobs: JobService, job_id: str) -> bool:
    status = await jobs.status(job_id)
    return status.status == "queued" and status.next_attempt_at is not None


async def is_running(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).status is Status.PROCESSING


async def test_an_expired_result_reads_as_expired(jobs: JobService) -> None:
    state = state_of(jobs)
    entry = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t").started(utc_now(), "w")
    revision = await state.write(entry, expected=0)
    await state.write(entry.completed(utc_now()), expected=revision, ttl=1)

    async def expired() -> bool:
        [error] = await jobs.results(["high-7"], return_exceptions=True)
        return isinstance(error, JobError) and error.reason == "NotFound" and "its result has expired" in error.message

    await eventually(expired)
    with pytest.raises(JobService.Error, match="its result has expired"):
        await jobs.result("high-7")
