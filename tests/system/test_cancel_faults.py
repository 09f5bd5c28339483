"""Cancelling what lost its worker, what nobody runs, what came back from the dead, and in an outage."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from app_processes import Apps
from nats.aio.client import Client
from nats.aio.msg import Msg

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from router_parts import recorder_of

Status = JobService.Status


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=2)


async def started(apps: Apps) -> None:
    async def begun() -> bool:
        return bool(apps.events("start"))

    await eventually(begun)


async def messages(jobs: JobService, priority: str) -> int:
    """How many wait in both lanes."""
    names, priority = Names(jobs.config.namespace), Priority(priority)
    streams = [names.queue(Queue(priority, lane)) for lane in Lane]
    return sum([(await call(jobs.connection, f"STREAM.INFO.{stream}"))["state"]["messages"] for stream in streams])


async def test_a_worker_in_another_process_stops_its_handler(jobs: JobService, apps: Callable[..., Apps]) -> None:
    processes = apps(jobs.config)
    await processes.start()
    job_id = await jobs.submit("hang", None, entity="one", duration="long")
    await started(processes)
    status = await jobs.cancel(job_id)
    assert status.status is Status.CANCELLED
    assert len(processes.events("end")) == 1
    await jobs.result(await jobs.submit("step", {"n": 1}, entity="one"))

    async def is_empty() -> bool:  # its result is told before its message is acknowledged
        return await messages(jobs, "normal") == 0

    await eventually(is_empty)


async def test_nobody_has_it_in_hand_until_another_worker_takes_it_over(
    jobs: JobService, apps: Callable[..., Apps]
) -> None:
    processes = apps(jobs.config)
    lost = await processes.start()
    job_id = await jobs.submit("hang", None, entity="one", duration="long")
    await started(processes)
    lost.kill()
    with pytest.raises(JobService.Error) as caught:
        await jobs.cancel(job_id, timeout=0.5)
    assert caught.value.reason == "RunnerUnavailable"
    assert "no worker said that it runs it" in caught.value.message
    assert (await jobs.status(job_id)).status is Status.PROCESSING
    await processes.start()
    status = await jobs.cancel(job_id)
    assert status.status is Status.CANCELLED
    await jobs.result(await jobs.submit("step", {"n": 1}, entity="one"))


async def test_a_worker_that_was_lost_after_it_answered_is_not_said_to_be_stopping(
    jobs: JobService, apps: Callable[..., Apps], plain: Client
) -> None:
    processes = apps(jobs.config)
    lost = await processes.start()
    job_id = await jobs.submit("hang", None, entity="one", duration="long")
    await started(processes)
    lost.kill()
    lost.wait()
    answered = []

    async def answer(request: Msg) -> None:
        answered.append(request.subject)
        await request.respond(b"{}")

    subscription = await plain.subscribe(f"{jobs.config.namespace}.cancel.{job_id}", cb=answer)
    await subscription.unsubscribe(limit=1)
    await plain.flush()
    with pytest.raises(JobService.Error) as caught:
        await jobs.cancel(job_id, timeout=4)
    assert len(answered) == 1
    assert caught.value.reason == "RunnerUnavailable"


async def test_a_worker_that_was_frozen_when_its_job_was_cancelled_ends_nothing(
    jobs: JobService, apps: Callable[..., Apps]
) -> None:
    processes = apps(jobs.config)
    frozen = await processes.start()
    job_id = await jobs.submit("hang", None, entity="one", duration="long")
    await started(processes)
    frozen.send_signal(signal.SIGSTOP)
    try:
        await processes.start()
        status = await jobs.cancel(job_id)
        assert status.status is Status.CANCELLED
    finally:
        frozen.send_signal(signal.SIGCONT)

    async def woken_handler_has_ended() -> bool:
        return len(processes.events("end")) == len(processes.events("start"))

    await eventually(woken_handler_has_ended)
    await jobs.result(await jobs.submit("step", {"n": 1}, entity="one"))
    assert (await jobs.status(job_id)).history == status.history


@pytest.mark.parametrize("entity", ["e", None])
async def test_a_replayed_job_that_waits_is_acknowledged_by_the_worker_that_meets_it(
    jobs: JobService, entity: str | None
) -> None:
    ran = []

    @jobs.handler("dies")
    async def dies(payload: str) -> None:
        ran.append(payload)
        raise JobService.Error.from_validation("it shall die")

    async with jobs.worker(), jobs.router():
        dead = await jobs.submit("dies", "x", entity=entity)

        async def dead_lettered() -> bool:
            return len(await jobs.dlq.list()) == 1

        await eventually(dead_lettered)
    again = await jobs.replay(dead)
    status = await jobs.cancel(again)
    assert (status.status, status.attempts) == (Status.CANCELLED, 0)
    # Which message it is nobody has read yet: it stays, and the entry is kept for as long as it does.

    async def is_there() -> bool:
        return await messages(jobs, "normal") == 1

    await eventually(is_there)  # it comes by way of what is due
    state = StateStore(jobs.connection, Names(jobs.config.namespace))
    found = await state.read(again)
    assert found is not None
    assert not found.expires
    async with jobs.worker():

        async def gone() -> bool:
            entry = await state.read(again)
            return entry is not None and entry.expires and await messages(jobs, "normal") == 0

        await eventually(gone)
    assert ran == ["x"]
    with pytest.raises(JobService.Error, match="is already cancelled"):
        await jobs.cancel(again)


async def cancelled_with_its_message_left(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch, entity: str | None = "e"
) -> str:
    """A job whose message could not be deleted when it was cancelled."""

    async def refused(*_: object, **__: object) -> None:
        raise JobService.Error.from_runner_unavailable("the connection broke in this moment")

    job_id = await jobs.submit("note", "x", entity=entity)
    with monkeypatch.context() as broken:
        broken.setattr("jsjobs.operations.cancel.delete_message", refused)
        assert (await jobs.cancel(job_id)).status is Status.CANCELLED
    return job_id


@pytest.mark.parametrize("entity", ["e", None])
async def test_the_message_of_a_cancelled_job_is_left_to_a_worker_where_it_cannot_be_deleted(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch, entity: str | None
) -> None:
    ran = []
    jobs.register_handler("note", ran.append)
    await cancelled_with_its_message_left(jobs, monkeypatch, entity)
    assert await messages(jobs, "normal") == 1
    async with jobs.worker():

        async def gone() -> bool:
            return await messages(jobs, "normal") == 0

        await eventually(gone)
    assert ran == []


async def test_a_router_that_buries_such_a_message_lets_the_entry_expire(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await cancelled_with_its_message_left(jobs, monkeypatch)
    names = Names(jobs.config.namespace)
    queue, sequence = names.stream("normal"), int(job_id.partition("-")[2])
    await recorder_of(jobs).dead_letter(queue, sequence, f"{jobs.config.namespace}.work.normal.>")
    assert await messages(jobs, "normal") == 0
    found = await StateStore(jobs.connection, names).read(job_id)
    assert found is not None
    assert found.expires
    assert found.entry == await jobs.status(job_id)
    assert await jobs.dlq.list() == []


@pytest.mark.parametrize("entity", ["e", None])
async def test_a_second_cancel_finishes_what_a_crashed_one_began(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch, entity: str | None
) -> None:
    async def crashes(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    job_id = await jobs.submit("note", "x", entity=entity)
    with monkeypatch.context() as broken:
        broken.setattr("jsjobs.operations.cancel.delete_message", crashes)
        with pytest.raises(asyncio.CancelledError):
            await jobs.cancel(job_id)
    with pytest.raises(JobService.Error, match="is already cancelled"):
        await jobs.cancel(job_id)
    assert await messages(jobs, "normal") == 0
    found = await StateStore(jobs.connection, Names(jobs.config.namespace)).read(job_id)
    assert found is not None
    assert found.expires


async def test_a_running_job_is_cancelled_across_a_restart_of_the_server(
    settings_of: Callable[..., JobService.Config], tmp_path: Path
) -> None:
    with NatsServer(tmp_path) as server:
        config = settings_of(nats_url=server.url, ack_wait=5)
        async with JobService(config) as jobs:
            await TopologyReconciler(jobs.connection, Names(config.namespace), config).apply()
            at_work = asyncio.Event()

            @jobs.handler("sleep")
            async def sleep(payload: float) -> None:
                at_work.set()
                await asyncio.sleep(payload)

            async with JobService(config) as caller, jobs.worker():
                job_id = await jobs.submit("sleep", 60, duration="long")
                await at_work.wait()
                server.kill()
                cancelling = asyncio.ensure_future(caller.cancel(job_id))
                await asyncio.sleep(0.2)
                server.start()
                assert (await cancelling).status is Status.CANCELLED
