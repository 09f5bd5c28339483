"""Waiting for the ends of one or many jobs: told once, through lost hints and outages, and nothing stays behind."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from opened import opened

from facts import eventually, subscriptions
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.jetstream.tracking import waiter as ends_module
from jsjobs.jetstream.tracking.lookup import Lookup
from jsjobs.jetstream.tracking.waiter import WINDOW, JobWaiter
from jsjobs.model.entry_text import text_of
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, utc_now
from jsjobs.settings import Config


def started(job_id: str = "high-7") -> JobStatusResponse:
    return JobStatusResponse(job_id=job_id, status=Status.QUEUED, type="t").started(utc_now(), "w")


@pytest.fixture
async def ends(connection: Connection, names: Names) -> JobWaiter:
    return JobWaiter(connection, names)


async def complete(state: StateStore, *job_ids: str) -> None:
    revisions = await asyncio.gather(*(state.write(started(job_id), expected=0) for job_id in job_ids))
    await asyncio.gather(
        *(
            state.write(text_of(started(job_id).completed(utc_now()), b"1"), expected=revision)
            for job_id, revision in zip(job_ids, revisions, strict=True)
        )
    )


async def nothing_stays(connection: Connection) -> bool:
    tasks = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__.startswith("JobWaiter.")]
    return not tasks and subscriptions(connection) == 1 and not connection.on_reconnect


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The jobs whose statuses have been looked up."""
    looked_at = set()
    status = Lookup.status

    async def noted(self: Lookup, job_id: str) -> JobStatusResponse:
        try:
            return await status(self, job_id)
        finally:
            looked_at.add(job_id)

    monkeypatch.setattr(Lookup, "status", noted)
    return looked_at


async def test_giving_up_leaves_nothing_behind(ends: JobWaiter, state: StateStore, connection: Connection) -> None:
    await state.write(started(), expected=0)
    with pytest.raises(JobError, match=r"job high-7 is processing after 0\.2 s") as caught:
        await ends.end("high-7", 0.2)
    assert (caught.value.reason, caught.value.job_id) == (Reason.TIMEOUT, "high-7")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ends.end("high-7", None)
    waiting = asyncio.ensure_future(ends.end("high-7", None))
    await asyncio.sleep(0)
    waiting.cancel()
    async with aclosing(ends.each(["high-7", "high-8"])) as outcomes:
        assert isinstance((await anext(outcomes))[1], JobError)  # of high-8, which nobody knows
    await eventually(lambda: nothing_stays(connection))


@pytest.mark.parametrize("job_id", ["high-7", "at-x", "nonsense", "", "*", ">", "high-7\r\nPUB x 0\r\n", "\ud800"])
async def test_what_is_not_known_is_not_found(ends: JobWaiter, connection: Connection, job_id: str) -> None:
    with pytest.raises(JobError) as caught:
        await ends.end(job_id, 5)
    assert (caught.value.reason, caught.value.job_id) == (Reason.NOT_FOUND, job_id)
    [(told, outcome)] = [pair async for pair in ends.each([job_id, job_id])]
    assert told == job_id
    assert isinstance(outcome, JobError)
    await eventually(lambda: nothing_stays(connection))


async def test_a_timeout_of_no_time_at_all(ends: JobWaiter, state: StateStore) -> None:
    await complete(state, "high-7")
    for timeout in (0, -1):
        with pytest.raises(JobError, match="is not known yet after"):
            await ends.end("high-7", timeout)


async def test_all_who_wait_for_one_job_share_a_subscription(
    ends: JobWaiter, state: StateStore, connection: Connection
) -> None:
    revision = await state.write(started(), expected=0)
    waiting = [asyncio.ensure_future(ends.end("high-7", 30)) for _ in range(50)]
    await eventually(lambda: subscriptions(connection) == 2)
    waiting[7].cancel()
    await state.write(text_of(started().completed(utc_now()), b"[1]"), expected=revision)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 1
    assert [outcome.result for outcome in outcomes if isinstance(outcome, JobStatusResponse)] == [[1]] * 49
    await eventually(lambda: nothing_stays(connection))


async def test_an_end_without_a_hint_is_found_by_the_poll(
    ends: JobWaiter,
    state: StateStore,
    connection: Connection,
    looked_at: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends_module, "may_tell_end", lambda _: False)  # as if no hint ever came
    revision = await state.write(started(), expected=0)
    waiting = asyncio.ensure_future(ends.end("high-7", 30))
    await eventually(lambda: looked_at)
    await state.write(started().completed(utc_now()), expected=revision)
    assert (await waiting).status is Status.COMPLETE
    await eventually(lambda: nothing_stays(connection))


async def test_a_long_list_has_a_window_of_subscriptions_and_what_is_behind_it_is_found_too(
    ends: JobWaiter, state: StateStore, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends_module, "WINDOW", 5)
    ids = [f"high-{number}" for number in range(1, 41)]
    await asyncio.gather(*(state.write(started(job_id), expected=0) for job_id in ids[:5]))  # they go on
    await complete(state, *ids[5:])
    subscribed = []
    seen = []
    async with aclosing(ends.each(ids)) as outcomes:
        async for job_id, outcome in outcomes:
            assert isinstance(outcome, JobStatusResponse)
            assert outcome.result == 1
            seen.append(job_id)
            subscribed.append(subscriptions(connection) - 1)
            if len(seen) == 35:
                break
    assert set(seen) == set(ids[5:])
    assert max(subscribed) <= 5
    await eventually(lambda: nothing_stays(connection))


async def test_the_window_moves_on(ends: JobWaiter, state: StateStore, connection: Connection) -> None:
    ids = [f"low-{number}" for number in range(1, 2 * WINDOW + 501)]
    await complete(state, *ids)
    peak, seen = 0, set()
    async with aclosing(ends.each(ids)) as outcomes:
        async for job_id, _ in outcomes:
            seen.add(job_id)
            peak = max(peak, subscriptions(connection) - 1)
    assert seen == set(ids)
    assert 1 < peak <= WINDOW
    await eventually(lambda: nothing_stays(connection))


async def test_waiting_goes_on_across_a_server_restart(tmp_path: Path, looked_at: set[str]) -> None:
    with NatsServer(tmp_path) as server:
        config = Config(nats_url=server.url, queue_bytes=2**24)
        names = Names(config.namespace)
        async with opened(server.url) as connection, opened(server.url) as other:
            await TopologyReconciler(connection, names, config).apply()
            state, ends = StateStore(other, names), JobWaiter(connection, names)
            ids = [f"high-{number}" for number in range(1, 21)]
            revisions = [await state.write(started(job_id), expected=0) for job_id in ids]
            one = asyncio.ensure_future(ends.end(ids[0], 60))
            many = asyncio.ensure_future(collect(ends, ids))
            await eventually(lambda: subscriptions(connection) == 21 and looked_at >= set(ids))
            server.kill()
            ending = [
                asyncio.ensure_future(state.write(text_of(started(i).completed(utc_now()), b"[1]"), expected=r))
                for i, r in zip(ids, revisions, strict=True)
            ]
            server.start()
            await asyncio.gather(*ending)
            assert (await one).result == [1]
            assert sorted(await many) == sorted(ids)
            await eventually(lambda: nothing_stays(connection))


async def collect(ends: JobWaiter, ids: list[str]) -> list[str]:
    async with aclosing(ends.each(ids)) as outcomes:
        return [job_id async for job_id, outcome in outcomes if isinstance(outcome, JobStatusResponse)]


async def test_a_closed_connection_ends_the_waiting(
    nats_server: NatsServer,
    names: Names,
    state: StateStore,
    deploy: Callable[..., Awaitable[None]],
    looked_at: set[str],
) -> None:
    await state.write(started(), expected=0)
    async with opened(nats_server.url) as connection:
        ends = JobWaiter(connection, names)
        waiting = asyncio.ensure_future(ends.end("high-7", None))
        await eventually(lambda: looked_at)
    with pytest.raises(JobError, match="closed") as caught:
        await asyncio.wait_for(waiting, 20)
    assert caught.value.reason is Reason.RUNNER_UNAVAILABLE


async def test_without_streams_the_error_says_what_to_do(connection: Connection, namespace: str) -> None:
    with pytest.raises(JobError, match="jsjobs streams apply"):
        await JobWaiter(connection, Names(namespace)).end("high-7", 30)
