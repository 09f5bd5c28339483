"""A job that was not started in time is not run."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.server_clock import ServerClock
from jsjobs.jetstream.jobs.state_store import Found, StateStore
from jsjobs.jetstream.protocol.headers import EXPIRED, EXPIRES
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import InvalidBatch
from jsjobs.model.job import utc_now
from jsjobs.model.times import rfc3339
from router_parts import recorder_of
from taps import watch_answers

Ended = JobService.Response.Status


@pytest.fixture
def ran(jobs: JobService) -> list[Any]:
    seen: list[Any] = []
    jobs.register_handler("t", seen.append)
    return seen


async def stored(jobs: JobService, stream: str) -> int:
    count: int = (await call(jobs.connection, f"STREAM.INFO.{stream}"))["state"]["messages"]
    return count


async def letters(jobs: JobService) -> int:
    return await stored(jobs, Names(jobs.config.namespace).dead_stream)


async def nothing_is_left(jobs: JobService) -> None:
    async def is_so() -> bool:
        return await stored(jobs, Names(jobs.config.namespace).stream("low")) == 0

    await eventually(is_so)


async def found(jobs: JobService, job_id: str) -> Found:
    found = await StateStore(jobs.connection, Names(jobs.config.namespace)).read(job_id)
    assert found is not None
    return found


async def expired(jobs: JobService, **options: Any) -> str:
    """A job that nobody started in time."""
    job_id = await jobs.submit("t", 1, priority="low", expires=0.05, **options)
    moment = utc_now() + timedelta(seconds=0.05)
    await eventually(lambda: utc_now() > moment)
    return job_id


async def failure(jobs: JobService, job_id: str) -> JobService.Error:
    with pytest.raises(JobService.Error) as caught:
        await jobs.result(job_id, timeout=20)
    return caught.value


async def test_it_is_dead_and_says_how_long_it_waited(
    jobs: JobService, ran: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await expired(jobs)
    behind = await jobs.submit("t", 2, priority="low", expires=60)
    with caplog.at_level(logging.WARNING, "jsjobs.worker"):
        async with jobs.worker():
            error = await failure(jobs, job_id)
            await jobs.result(behind, timeout=20)
            await nothing_is_left(jobs)
    assert error.reason == "Timeout"
    assert ran == [2]
    status = await jobs.status(job_id)
    assert (status.status, status.error_reason, status.attempts) == ("failed", "Timeout", 0)
    assert [item.status for item in status.history] == ["failed"]
    assert status.created_at is not None
    assert "the job expired at 20" in (status.last_error or "")
    assert "before it was started; it had waited 0." in (status.last_error or "")
    assert f"job {job_id} (t): the job expired" in caplog.text
    assert await letters(jobs) == 1
    assert not (await found(jobs, job_id)).expires  # that is the router's to set


async def test_a_dropped_one_is_failed_and_leaves_no_letter(jobs: JobService, ran: list[Any]) -> None:
    job_id = await expired(jobs, expired="drop")
    async with jobs.worker(), jobs.router():
        assert (await failure(jobs, job_id)).reason == "Timeout"
        await nothing_is_left(jobs)
    assert (ran, await letters(jobs), (await found(jobs, job_id)).expires) == ([], 0, True)
    assert await jobs.dlq.list() == []


async def test_one_that_started_in_time_is_run_to_its_end(jobs: JobService) -> None:
    """Retried, snoozed and given back after it would have expired."""
    seen, at_work = [], asyncio.Event()

    async def handler(payload: object, ctx: JobService.Context) -> str:
        seen.append(ctx.attempt)
        match len(seen):
            case 1:
                raise ValueError("again")
            case 2:
                raise JobService.Snooze(0.5)
            case 3:
                at_work.set()
                await asyncio.sleep(60)
        return "done"

    jobs.register_handler("t", handler, retry=JobService.Retry(initial=0.5, jitter=(1, 1)))
    job_id = await jobs.submit("t", priority="low", expires=0.4)
    async with jobs.worker() as worker:
        await at_work.wait()
        await worker.stop(0)
    async with jobs.worker():
        assert await jobs.result(job_id, timeout=20) == "done"
    assert seen == [1, 2, 2, 2]


async def test_the_server_s_clock_is_asked_only_where_it_matters(
    jobs: JobService, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    now = ServerClock.now

    async def counting(clock: ServerClock) -> Any:
        asked.append(1)
        return await now(clock)

    monkeypatch.setattr(ServerClock, "now", counting)
    async with jobs.worker():
        await jobs.results(await jobs.submit("t", list(range(20)), priority="low"))
        assert asked == []
        await jobs.result(await jobs.submit("t", 99, priority="low", expires=60))
        assert asked == [1, 1]  # before its start is written, and after


async def test_what_a_raw_publisher_says(jobs: JobService, plain: Client, ran: list[Any]) -> None:
    subject, stream = f"{jobs.config.namespace}.low.e.t", plain.jetstream()
    past, future = rfc3339(utc_now() - timedelta(days=1)), rfc3339(utc_now() + timedelta(days=1))

    async def publish(**headers: str) -> str:
        named = {EXPIRES: headers["expires"], **({EXPIRED: headers["expired"]} if "expired" in headers else {})}
        return f"low-{(await stream.publish(subject, b'1', headers=named)).seq}"

    late, dropped, in_time = await publish(expires=past), await publish(expires=past, expired="drop"), ""
    in_time = await publish(expires=future, expired="drop")
    bad = [await publish(expires="tomorrow"), await publish(expires=past, expired="please")]
    async with jobs.worker():
        assert (await failure(jobs, late)).reason == "Timeout"
        assert (await failure(jobs, dropped)).reason == "Timeout"
        assert await jobs.result(in_time, timeout=20) is None
        errors = [await failure(jobs, job_id) for job_id in bad]
    assert [error.reason for error in errors] == ["Validation"] * 2
    assert "Jsjobs-Expires: must be an RFC 3339 time" in errors[0].message
    assert "Jsjobs-Expired: must be drop or dead_letter" in errors[1].message
    assert (ran, await letters(jobs)) == ([1], 3)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"expires": -1}, "above 0 seconds"),
        ({"expires": timedelta(0)}, "above 0 seconds"),
        ({"expires": utc_now() - timedelta(seconds=1)}, "before it is due"),
        ({"expires": utc_now().replace(tzinfo=None)}, "must be aware of its zone"),
        ({"expires": "soon"}, "RFC 3339"),
        ({"expires": 1, "expired": "keep"}, "dead_letter"),
    ],
)
async def test_an_expiry_that_cannot_be_is_refused(jobs: JobService, options: dict[str, Any], what: str) -> None:
    for payload, kind in ((1, JobService.Error), ([1, 2], JobService.Error)):
        with pytest.raises(kind, match=what) as caught:
            await jobs.submit("t", payload, **options)
        assert caught.value.reason == "Validation"
    assert await stored(jobs, Names(jobs.config.namespace).stream("normal")) == 0


async def test_of_a_list_those_that_would_never_run_are_named(jobs: JobService) -> None:
    good = JobService.Payload(type="t", expires=timedelta(hours=1), expired="drop")
    bad = JobService.Payload(type="t", expires=utc_now() - timedelta(hours=1))
    with pytest.raises(InvalidBatch) as caught:
        await jobs.submit_payloads([good, bad, good])
    assert list(caught.value.errors) == [1]


async def test_a_job_that_was_cancelled_before_it_expired_stays_so(
    jobs: JobService, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is left: the worker that meets it expects no entry at first, as of any new job."""

    class Killed(BaseException):
        """The end of the caller's process."""

    async def dead(*_: object, **__: object) -> None:
        raise Killed

    job_id = await expired(jobs)
    with monkeypatch.context() as dying:
        dying.setattr("jsjobs.operations.cancel.delete_message", dead)
        with pytest.raises(Killed):
            await jobs.cancel(job_id)
    async with jobs.worker():
        async with asyncio.timeout(jobs.config.ack_wait):  # not by a redelivery
            await nothing_is_left(jobs)
    assert (await jobs.status(job_id)).status == "cancelled"
    assert (ran, await letters(jobs)) == ([], 0)


@pytest.mark.parametrize(("how", "rows"), [("drop", 0), ("dead_letter", 1)])
async def test_a_message_given_up_after_its_job_expired(
    how: str, rows: int, jobs: JobService, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died before the letter, or before TERM, and the server delivers the message no more."""
    watch_answers(monkeypatch, lambda _: False)
    monkeypatch.setattr("jsjobs.worker.settlement.send_letter", quietly)
    names, job_id = Names(jobs.config.namespace), await expired(jobs, expired=how, entity="e")
    stream, shard = names.stream("low"), "low-1x1-0"
    filtered = (await call(jobs.connection, f"CONSUMER.INFO.{stream}.{shard}"))["config"]["filter_subject"]
    async with jobs.worker():
        await failure(jobs, job_id)
    for _ in range(2):
        await recorder_of(jobs).dead_letter(stream, int(job_id.partition("-")[2]), filtered)
    assert await stored(jobs, stream) == 0
    assert len(await jobs.dlq.list()) == rows
    assert (await jobs.status(job_id)).error_reason == "Timeout"


async def quietly(*_: object, **__: object) -> None:
    """Send nothing."""


async def test_a_replayed_one_runs(jobs: JobService, ran: list[Any]) -> None:
    job_id = await expired(jobs)
    async with jobs.worker(), jobs.router():

        async def letter() -> Any:
            [found] = await jobs.dlq.list()
            return found

        letter_id = (await eventually(letter)).id
        assert (await jobs.dlq.get(letter_id)).error_reason == "Timeout"
        replayed = await jobs.replay(str(letter_id))
        assert await jobs.result(replayed, timeout=20) is None
    assert ran == [1]
    assert (await jobs.status(job_id)).status == "failed"
