"""The server lets who may subscribe to `a.*` subscribe to `a.>`: what is then heard, and what others can put there."""

import asyncio
from collections.abc import Callable

import pytest
from secured import plain_client, wire

from facts import eventually
from jsjobs import JobService

Settings = Callable[..., JobService.Config]
DEEPER = ("$KV.jobs.batch.b", "$KV.jobs.batch.b.1", "$KV.jobs.quota.x")


@pytest.mark.parametrize("user", ["viewer", "service", "worker", "delaying"])
async def test_who_hears_states_does_not_hear_lists_and_quotas(as_user: Settings, user: str) -> None:
    url = as_user("operator").nats_url
    async with wire(url, user) as wide, plain_client(url, "root") as root:
        assert not await wide.listen("$KV.jobs.>")
        for subject in (*DEEPER, "$KV.jobs.normal-1"):
            await root.publish(subject, b"1")
        await root.flush()
        heard = await eventually(wide.heard)
        assert "MSG $KV.jobs.normal-1 " in heard
        assert not [subject for subject in DEEPER if subject in heard]


async def test_a_viewers_reply_subject_tells_other_viewers_nothing_that_they_believe(as_user: Settings) -> None:
    """The server's answer goes to whoever among the viewers listens on the subject that the asker named."""
    async with (
        JobService(as_user("operator")) as operator,
        JobService(as_user("viewer")) as victim,
        wire(as_user("viewer").nats_url, "viewer") as hostile,
        wire(as_user("viewer").nats_url, "viewer") as listener,
    ):
        ended, waits = await operator.submit("echo", 1), await operator.submit("echo", 2)
        await operator.cancel(ended)
        result = asyncio.ensure_future(victim.result(waits, timeout=30))
        assert not await listener.listen(f"$KV.jobs.{waits}")
        looks = {
            "STREAM.MSG.GET.KV_jobs": b'{"last_by_subj":"$KV.jobs.%b"}' % ended.encode(),
            "STREAM.INFO.JOBS_LOW": b"",
        }
        for endpoint, body in looks.items():
            await hostile.publish(f"$JS.API.{endpoint}", body, reply=f"$KV.jobs.{waits}")
        heard = ""

        async def both_were_heard() -> bool:
            nonlocal heard
            heard += await listener.heard()
            return heard.count("io.nats.jetstream.api") == len(looks)

        await eventually(both_were_heard)
        assert (await victim.status(waits)).status == "queued"
        assert not result.done()
        worker = JobService(as_user("worker"))
        worker.register_handler("echo", lambda payload: payload)
        async with worker, worker.worker():
            assert await result == 2
