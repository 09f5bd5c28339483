"""A service that several callers connect and close at once has one connection, and leaves none behind."""

import asyncio

import pytest

from facts import eventually
from jsjobs import JobService


def tasks() -> int:
    return len(asyncio.all_tasks())


async def test_callers_that_connect_at_once_share_a_connection(config: JobService.Config) -> None:
    before, jobs = tasks(), JobService(config)
    await asyncio.gather(*(jobs.connect() for _ in range(5)))
    one = tasks()
    alone = JobService(config)
    await alone.connect()
    assert tasks() - one == one - before
    await alone.close()
    await jobs.close()
    await eventually(lambda: tasks() == before)


async def test_a_close_meanwhile_leaves_no_connection(config: JobService.Config) -> None:
    before, jobs = tasks(), JobService(config)
    connecting = asyncio.ensure_future(jobs.connect())
    await asyncio.sleep(0)
    await jobs.close()
    await connecting
    await eventually(lambda: tasks() == before)
    with pytest.raises(JobService.Error, match="not connected"):
        await jobs.submit("t")


async def test_a_caller_that_gives_up_ends_no_other_one_s_wait_and_the_last_ends_it() -> None:
    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before, jobs = tasks(), JobService(JobService.Config(nats_url=f"nats://127.0.0.1:{port}", timeout=30))
    first, second = (asyncio.ensure_future(jobs.connect()) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert not second.done()
    second.cancel()
    await asyncio.wait({second})
    assert second.cancelled()
    gone.set()
    server.close()
    await server.wait_closed()
    await eventually(lambda: tasks() == before)


async def test_workers_and_routers_that_are_started_at_once_start_once(jobs: JobService) -> None:
    jobs.register_handler("t", lambda payload: payload)
    await jobs.connection.flush()
    before, subscriptions = tasks(), jobs.connection.subscription_count
    worker = jobs.worker()
    await worker.start()
    alone = tasks() - before, jobs.connection.subscription_count - subscriptions
    await worker.stop()
    await eventually(lambda: tasks() == before)
    worker = jobs.worker()
    await asyncio.gather(*(worker.start() for _ in range(3)))
    assert (tasks() - before, jobs.connection.subscription_count - subscriptions) == alone
    assert await jobs.result(await jobs.submit("t", 1)) == 1
    await worker.stop()
    await eventually(lambda: tasks() == before)
