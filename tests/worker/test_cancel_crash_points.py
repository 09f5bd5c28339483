"""A crash at every point between two writes of a cancel, of the worker's and of the caller's."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from crashing import Crasher

from facts import eventually, state_of
from jsjobs import JobService
from jsjobs.jetstream.api.messages import find_stored
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.streams import delete_message
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.headers import value_of
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.model.job import utc_now

Status = JobService.Status


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=1)


async def queue_is_empty(jobs: JobService) -> bool:
    info = await call(jobs.connection, f"STREAM.INFO.{Names(jobs.config.namespace).stream('low')}")
    return info["state"]["messages"] == 0


@pytest.mark.parametrize(
    ("point", "runs"),
    [
        ("before write 2", 2),  # interrupted, and not ended on paper: whoever takes it over is asked too
        ("after write 2", 1),  # ended: the redelivery is acknowledged and not run
        ("before term", 1),
    ],
)
async def test_a_worker_that_crashes_while_it_cancels(point, runs, config, monkeypatch, jobs) -> None:
    begun: Counter[str] = Counter()
    at_work = asyncio.Event()

    async def hang(payload: object, ctx: JobService.Context) -> None:
        begun[ctx.job_id] += 1
        at_work.set()
        await asyncio.sleep(60)

    dying = JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", hang)
    job_id = await jobs.submit("t", {}, priority="low", entity="e", duration="long")
    behind = await jobs.submit("t", {}, priority="low", entity="e")
    async with dying:
        crasher = Crasher(dying, point, monkeypatch)
        await crasher.worker.start()
        await at_work.wait()
        cancelling = asyncio.ensure_future(jobs.cancel(job_id))
        await crasher.crashed.wait()
    async with jobs.worker():
        status = await cancelling
        assert status.status is Status.CANCELLED
        assert (await jobs.cancel(behind)).status is Status.CANCELLED
        await eventually(lambda: queue_is_empty(jobs))
    assert await jobs.status(job_id) == status
    # The lost worker's successor may be asked before its handler has begun, and never begins it then.
    assert 1 <= begun[job_id] <= runs
    assert [item.status for item in status.history].count(Status.CANCELLED) == 1


@pytest.mark.parametrize("requests", [0, 1])
async def test_a_caller_that_crashes_while_it_cancels_a_snoozing_job(requests, monkeypatch, jobs: JobService) -> None:
    """It wrote `cancelled`, and sends the server so many requests more: the last one deletes the message."""
    runs: list[object] = []

    @jobs.handler("t")
    async def snooze(payload: object) -> None:
        runs.append(payload)
        raise JobService.Snooze(3600)

    job_id = await jobs.submit("t", "x", priority="low", entity="e")

    async def calling(*args: object, **kwargs: object) -> object:
        nonlocal requests
        requests -= 1
        if requests < 0:
            raise Killed
        return await delete_message(*args, **kwargs)  # type: ignore[arg-type]

    async def is_snoozed() -> bool:
        return (await jobs.status(job_id)).snoozed_until is not None

    async with jobs.worker() as worker:
        await eventually(is_snoozed)
        with monkeypatch.context() as dying:
            dying.setattr("jsjobs.operations.cancel.delete_message", calling)
            if requests:
                dying.setattr(StateStore, "write", once(StateStore.write))
            with pytest.raises(Killed):
                await jobs.cancel(job_id)
        await eventually(lambda: queue_is_empty(jobs))
        await eventually(lambda: worker.running == 0)
        if requests:  # nobody meets a message any more that is gone
            with pytest.raises(JobService.Error, match="is already cancelled"):
                await jobs.cancel(job_id)
        found = await state_of(jobs).read(job_id)
    assert found is not None
    assert found.entry is not None
    assert (found.entry.status, found.expires, runs) == (Status.CANCELLED, True, ["x"])


async def test_caller_and_worker_of_a_snoozing_job_both_crash(config, monkeypatch, jobs: JobService) -> None:
    """It is cancelled on paper, and its message is left, held by nobody."""
    runs: list[object] = []

    async def snooze(payload: object) -> None:
        runs.append(payload)
        raise JobService.Snooze(3600)

    async def dead(*_: object, **__: object) -> None:
        raise Killed

    async def is_snoozed() -> bool:
        return (await jobs.status(job_id)).snoozed_until is not None

    dying = JobService(config)
    for service in (dying, jobs):
        service.register_handler("t", snooze)
    job_id = await jobs.submit("t", "x", priority="low", entity="e")
    async with dying:
        await dying.worker().start()
        await eventually(is_snoozed)
        await dying.close()
    with monkeypatch.context() as gone:
        gone.setattr("jsjobs.operations.cancel.delete_message", dead)
        with pytest.raises(Killed):
            await jobs.cancel(job_id)
    async with jobs.worker():
        await eventually(lambda: queue_is_empty(jobs))
        found = await state_of(jobs).read(job_id)
    assert found is not None
    assert found.entry is not None
    assert (found.entry.status, found.expires, runs) == (Status.CANCELLED, True, ["x"])


def once(write: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    """A write that succeeds the first time, and whose caller is dead at the second."""
    times = 0

    async def writing(*args: object, **kwargs: object) -> int:
        nonlocal times
        times += 1
        if times > 1:
            raise Killed
        return await write(*args, **kwargs)

    return writing


class Killed(BaseException):
    """The end of the caller's process."""


@pytest.mark.parametrize(("writes", "requests"), [(0, 9), (1, 0), (1, 1), (2, 9)])
async def test_a_caller_that_crashes(writes, requests, monkeypatch, jobs: JobService) -> None:
    """It may write so often and send the server so many requests before it dies."""
    ran, leaves_its_message = [], requests == 0
    jobs.register_handler("t", ran.append)
    job_id = await jobs.submit("t", "x", priority="low")
    write, number = StateStore.write, 0

    async def writing(*args: object, **kwargs: object) -> int:
        nonlocal number
        number += 1
        if number > writes:
            raise Killed
        return await write(*args, **kwargs)  # type: ignore[arg-type]

    async def calling(*args: object, **kwargs: object) -> object:
        nonlocal requests
        requests -= 1
        if requests < 0:
            raise Killed
        return await delete_message(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as dying:
        dying.setattr(StateStore, "write", writing)
        dying.setattr("jsjobs.operations.cancel.delete_message", calling)
        if writes < 2:
            with pytest.raises(Killed):
                await jobs.cancel(job_id)
        else:
            await jobs.cancel(job_id)
    async with jobs.worker():
        await eventually(lambda: queue_is_empty(jobs))
    status = await jobs.status(job_id)
    assert (status.status, ran) == ((Status.CANCELLED, []) if writes else (Status.COMPLETE, ["x"]))
    names = Names(jobs.config.namespace)
    if writes and leaves_its_message:  # the worker that met it has told the entry to expire
        subject = names.state(job_id).decode()
        stored = await find_stored(jobs.connection, names.state_stream, {"last_by_subj": subject})
        assert stored is not None
        assert value_of(stored.header, b"Nats-TTL") == b"%ds" % jobs.config.result_ttl
    if writes:
        with pytest.raises(JobService.Error, match="is already cancelled"):
            await jobs.cancel(job_id)
        # Wherever it died: what is left of it may expire now.
        found = await StateStore(jobs.connection, names).read(job_id)
        assert found is not None
        assert found.expires


@pytest.mark.parametrize("kind", ["waiting", "delayed", "centuries ahead"])
@pytest.mark.parametrize("requests", [0, 1])
async def test_an_entry_expires_wherever_its_canceller_died(kind, requests, monkeypatch, jobs: JobService) -> None:
    """Nobody comes after it: no worker, no router, no second cancel."""
    at = {
        "waiting": None,
        "delayed": utc_now() + timedelta(hours=1),
        "centuries ahead": datetime(2199, 1, 1, tzinfo=UTC),
    }
    job_id = await jobs.submit("t", "x", priority="low", at=at[kind])
    names, state, left = Names(jobs.config.namespace), state_of(jobs), requests

    def dies_after(step: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def stepping(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return await step(*args, **kwargs)

        return stepping

    with monkeypatch.context() as dying:
        if kind != "centuries ahead":  # that one is only told to expire
            ahead = 0 if at[kind] is None else 3600
            dying.setattr("jsjobs.operations.cancel.LEFT_BEHIND", 1 - ahead - jobs.config.result_ttl)
        dying.setattr("jsjobs.operations.cancel.delete_message", dies_after(delete_message))
        dying.setattr(Schedules, "remove", dies_after(Schedules.remove))
        if requests:
            dying.setattr(StateStore, "write", once(StateStore.write))
        with pytest.raises(Killed):
            await jobs.cancel(job_id)
    stored = await find_stored(jobs.connection, names.state_stream, {"last_by_subj": names.state(job_id).decode()})
    assert stored is not None
    ttl = int((value_of(stored.header, b"Nats-TTL") or b"0s").removesuffix(b"s"))
    if kind == "centuries ahead":
        assert ttl > (at[kind] - utc_now()).total_seconds() + 366 * 24 * 3600
        return

    async def is_gone() -> bool:
        found = await state.read(job_id)
        return found is None or found.entry is None

    await eventually(is_gone)


@pytest.mark.parametrize("point", ["before write 2", "after write 2", "before ack"])
async def test_an_entry_expires_though_a_worker_dies_that_met_its_message(point, config, monkeypatch, jobs) -> None:
    """The first of its writes is refused: the job is cancelled, by a caller that died."""
    ran: list[object] = []
    dying = JobService(config)
    for service in (jobs, dying):
        service.register_handler("t", ran.append)
    job_id = await jobs.submit("t", "x", priority="low")
    with monkeypatch.context() as caller:
        caller.setattr("jsjobs.operations.cancel.delete_message", killed)
        with pytest.raises(Killed):
            await jobs.cancel(job_id)
    async with dying:
        await Crasher(dying, point, monkeypatch).run_until_crash()
    state = StateStore(jobs.connection, Names(jobs.config.namespace))

    async def expires() -> bool:
        found = await state.read(job_id)
        return found is not None and found.expires

    async with jobs.worker():
        await eventually(expires)
        await eventually(lambda: queue_is_empty(jobs))
    assert ((await jobs.status(job_id)).status, ran) == (Status.CANCELLED, [])


async def killed(*_: object, **__: object) -> None:
    raise Killed
