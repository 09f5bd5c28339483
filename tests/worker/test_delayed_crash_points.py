"""A caller that dies between two writes about a delayed job."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.jetstream.tracking.batches import Batches

Status = JobService.Status


class Killed(BaseException):
    """The end of the caller's process."""


async def dies_before(monkeypatch: pytest.MonkeyPatch, where: type, step: str, doing: Coroutine[Any, Any, Any]) -> None:
    """Do something in a process that dies in the place of one step."""

    async def die(*_: object, **__: object) -> Any:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(where, step, die)
        with pytest.raises(Killed):
            await doing


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


@pytest.fixture
def ran(jobs: JobService) -> list[tuple[str, datetime]]:
    ran: list[tuple[str, datetime]] = []

    async def note(_: object, ctx: JobService.Context) -> None:
        ran.append((ctx.job_id, datetime.now(UTC)))

    jobs.register_handler("note", note)
    return ran


async def waiting_id(jobs: JobService) -> str:
    """The id of the only delayed job, which its submitter never got."""
    request = {"subjects_filter": f"{jobs.config.namespace}.at.*"}
    info = await call(jobs.connection, f"STREAM.INFO.{Names(jobs.config.namespace).schedule_stream}", request)
    (subject,) = info["state"]["subjects"]
    return str(subject).rpartition(".")[2]


@pytest.mark.parametrize("then", ["nothing", "cancel", "reschedule", "run_now"])
async def test_between_the_schedule_and_its_entry(then: str, jobs: JobService, ran: list, monkeypatch) -> None:
    delay = 0.6 if then == "nothing" else 30
    await dies_before(monkeypatch, StateStore, "write", jobs.submit("note", delay=delay, entity="e"))
    job_id = await waiting_id(jobs)
    status = await jobs.status(job_id)
    assert (status.status, status.attempts, status.entity, status.type) == (Status.QUEUED, 0, "e", "note")
    assert status.scheduled_for is not None
    match then:
        case "cancel":
            await jobs.cancel(job_id)
        case "reschedule":
            await jobs.reschedule(job_id, delay=0.4)
        case "run_now":
            await jobs.run_now(job_id)
    async with jobs.worker():
        if then == "cancel":
            await jobs.result(await jobs.submit("note", delay=0.8, entity="e"))
            assert job_id not in [each for each, _ in ran]
            assert (await jobs.status(job_id)).status is Status.CANCELLED
        else:
            await jobs.result(job_id)
            assert [each for each, _ in ran] == [job_id]


@pytest.mark.parametrize("then", ["nothing", "cancel"])
async def test_between_the_schedule_and_its_entry_once_it_fired(
    then: str, jobs: JobService, ran: list, monkeypatch
) -> None:
    tokens = ["0123456789abcdef", "fedcba9876543210"]
    given, ids = iter(tokens), [f"at-{token}" for token in tokens]
    monkeypatch.setattr("jsjobs.jetstream.schedules.delayed.random_token", lambda: next(given))
    for _ in ids:
        await dies_before(monkeypatch, StateStore, "write", jobs.submit("note", delay=0.2, entity="e"))
    names = Names(jobs.config.namespace)

    async def have_fired() -> bool:
        info = await call(jobs.connection, f"STREAM.INFO.{names.stream('normal')}")
        return int(info["state"]["messages"]) == len(ids)

    await eventually(have_fired)
    for job_id in ids:
        status = await jobs.status(job_id)
        assert (status.status, status.attempts, status.entity, status.type) == (Status.QUEUED, 0, "e", "note")
        with pytest.raises(JobService.Error, match="it is due already, and queued"):
            await jobs.run_now(job_id)
    await Batches(jobs.connection, names, result_ttl=3600).record("b", ids)
    assert (await jobs.batch("b")).counts[Status.QUEUED] == len(ids)
    if then == "cancel":
        await jobs.cancel(ids[0])
        info = await call(jobs.connection, f"STREAM.INFO.{names.stream('normal')}")
        assert info["state"]["messages"] == 1, "its message is deleted"
    async with jobs.worker():
        await jobs.result(ids[1])
    assert [each for each, _ in ran] == (ids if then == "nothing" else ids[1:])


async def test_between_cancelled_and_the_removal_of_the_schedule(jobs: JobService, ran: list, monkeypatch) -> None:
    job_id = await jobs.submit("note", delay=0.6)
    await dies_before(monkeypatch, Schedules, "remove", jobs.cancel(job_id))
    state = StateStore(jobs.connection, Names(jobs.config.namespace))
    found = await state.read(job_id)
    assert found is not None
    assert not found.expires, "its schedule still fires"
    async with jobs.worker():

        async def ages() -> bool:
            found = await state.read(job_id)
            return found is not None and found.expires

        await eventually(ages)  # by the worker that met it
    assert ran == []
    assert (await jobs.status(job_id)).status is Status.CANCELLED


async def test_a_cancel_again_removes_the_schedule(jobs: JobService, monkeypatch) -> None:
    job_id = await jobs.submit("note", delay=30)
    await dies_before(monkeypatch, Schedules, "remove", jobs.cancel(job_id))
    with pytest.raises(JobService.Error, match="was cancelled"):
        await jobs.run_now(job_id)
    with pytest.raises(JobService.Error, match="is already cancelled"):
        await jobs.cancel(job_id)
    found = await Schedules(jobs.connection, Names(jobs.config.namespace)).of_job(job_id)
    assert found is None or not found.is_live


async def test_between_the_moved_schedule_and_its_entry(jobs: JobService, ran: list, monkeypatch) -> None:
    job_id = await jobs.submit("note", delay=0.4)
    later = datetime.now(UTC) + timedelta(seconds=1.5)
    await dies_before(monkeypatch, StateStore, "write", jobs.reschedule(job_id, at=later))
    async with jobs.worker():
        await jobs.result(job_id)
    assert [each for each, _ in ran] == [job_id]
    assert ran[0][1] >= later


async def test_between_the_key_of_a_job_and_its_entry(jobs: JobService, ran: list, monkeypatch) -> None:
    await dies_before(monkeypatch, StateStore, "write", jobs.submit("note", delay=0.8, dedupe_key="k"))
    again = await jobs.submit("note", delay=0.8, dedupe_key="k")
    assert again.duplicate
    async with jobs.worker():
        await jobs.result(again)
        await asyncio.wait_for(jobs.result(await jobs.submit("note", delay=0.5)), 20)
    assert len(ran) == 2
