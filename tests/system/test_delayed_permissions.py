"""Delayed jobs and schedules with no more rights than the documentation asks for."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

DELAYS = '"shop.at.>", "$KV.shop.*", "$JS.API.DIRECT.GET.>"'
SCHEDULES = '"shop.at.schedule.*", "$JS.API.DIRECT.GET.>"'
INBOX = 'subscribe: "_INBOX.>"'
USERS = f"""
authorization {{
  users: [
    {{ user: all, password: pw }}
    {{ user: delays, password: pw, permissions: {{ publish: [{DELAYS}, "$KV.shop.batch.>"], {INBOX} }} }}
    {{ user: runs, password: pw, permissions: {{ publish: [{DELAYS}, "shop.due.>"], {INBOX} }} }}
    {{ user: schedules, password: pw, permissions: {{
      publish: [{SCHEDULES}, "shop.normal.*.>", "shop.parallel.normal.*.>"], {INBOX}
    }} }}
  ]
}}
"""


@pytest.fixture
async def as_user(tmp_path: Path) -> AsyncIterator[Callable[[str], JobService]]:
    """A connected service of each user, on a server whose streams exist."""
    with NatsServer(tmp_path / "nats", config=USERS) as server:
        config = JobService.Config(nats_url=server.url, nats_password="pw", namespace="shop", queue_bytes=64 * 2**20)
        async with AsyncExitStack() as stack:
            services = {}
            for user in ("all", "delays", "runs", "schedules"):
                service = JobService(config.model_copy(update={"nats_user": user}))
                services[user] = await stack.enter_async_context(service)
            await TopologyReconciler(services["all"].connection, Names("shop"), config).apply()
            yield services.__getitem__


async def test_delayed_jobs_are_submitted_moved_and_cancelled(
    as_user: Callable[[str], JobService], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = as_user("delays")
    job_id = await jobs.submit("note", 1, delay=60, dedupe_key="k")
    assert (await jobs.submit("note", 1, delay=60, dedupe_key="k")).duplicate
    await jobs.submit("note", 1, delay=60, debounce_key="k")
    batch = await jobs.submit("note", [1, 2], delay=60)
    assert batch[0].batch_id is not None
    assert (await jobs.batch(batch[0].batch_id)).total == 2
    due = datetime.now(UTC) + timedelta(hours=1)
    assert (await jobs.reschedule(job_id, at=due)).scheduled_for == due
    assert not caplog.records
    assert (await jobs.cancel(batch[0])).status == "cancelled"
    await as_user("runs").run_now(job_id)
    with pytest.raises(JobService.Error, match="it is due already, and queued"):
        await jobs.reschedule(job_id, delay=60)


async def test_schedules_are_added_paused_run_and_removed(
    as_user: Callable[[str], JobService], caplog: pytest.LogCaptureFixture
) -> None:
    schedules = as_user("schedules").schedules
    await schedules.add("beat", "note", every=3600)
    await schedules.pause("beat")
    assert [one.paused for one in await schedules.list()] == [True]
    await schedules.resume("beat")
    assert (await schedules.run("beat")).startswith("normal-")
    await schedules.remove("beat")
    assert await schedules.list() == []
    assert not caplog.records


async def test_jobs_of_one_entity_run_in_the_order_they_are_due(as_user: Callable[[str], JobService]) -> None:
    """The server's timer has steps of a quarter of a second: what is due half a second later fires later."""
    jobs, ran = as_user("all"), []

    @jobs.handler("note")
    async def note(number: int) -> None:
        ran.append(number)

    begin = datetime.now(UTC) + timedelta(seconds=1)
    order = [3, 0, 4, 1, 2]
    ids = [await jobs.submit("note", n, at=begin + timedelta(seconds=n / 2), entity="one") for n in order]
    async with jobs.worker():
        await jobs.results(ids)
    assert ran == sorted(order)
