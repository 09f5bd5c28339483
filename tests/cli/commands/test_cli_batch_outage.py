"""Watching a batch through an outage of its server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from jsjobs import JobService
from jsjobs.cli.commands.batch import follow_changes
from jsjobs.embedded.nats import NatsServer
from jsjobs.model.batch import BatchStatus
from tcp_proxy import TcpProxy

Deploy = Callable[[JobService.Config], Awaitable[None]]


async def test_watching_a_batch_goes_on_after_an_outage(
    settings_of: Callable[..., JobService.Config],
    deploy: Deploy,
    nats_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed, look = asyncio.Event(), JobService.batch

    async def looking(service: JobService, batch_id: str) -> BatchStatus:
        try:
            return await look(service, batch_id)
        except JobService.Error:
            failed.set()
            raise

    monkeypatch.setattr(JobService, "batch", looking)
    await deploy(settings_of())
    async with (
        TcpProxy(nats_server.url) as proxy,
        JobService(settings_of()) as near,
        JobService(settings_of(nats_url=proxy.url, timeout=0.2)) as far,
    ):
        near.register_handler("echo", lambda payload: payload)
        ids = await near.submit("echo", [1, 2])
        changes = follow_changes(far, await far.batch(ids[0].batch_id))
        assert (await anext(changes)).ended == 0
        proxy.deaf = True
        proxy.cut()
        following = asyncio.ensure_future(_last(changes))
        async with asyncio.timeout(20):
            await failed.wait()
        async with near.worker():
            await near.results(ids)
        proxy.deaf = False
        [outcome] = await asyncio.gather(following, return_exceptions=True)
    assert not isinstance(outcome, BaseException), "the outage ended it"
    assert outcome.counts["complete"] == 2


async def _last(changes: AsyncIterator[BatchStatus]) -> BatchStatus:
    return [seen async for seen in changes][-1]
