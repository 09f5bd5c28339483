"""Workers and routers that are started while a cluster has lost its majority wait for it, and then work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from facts import eventually
from jsjobs import JobService
from survival.servers import Servers, declare

pytestmark = pytest.mark.long


async def test_what_starts_without_a_majority_begins_when_there_is_one(
    settings_of: Callable[..., JobService.Config], tmp_path: Path
) -> None:
    async with Servers(tmp_path, 3) as servers:
        settings = settings_of(nats_url=servers.nodes[0].url, database_url=servers.postgres.url, replicas=3, ack_wait=4)
        await (await declare(settings, servers)).close()
        jobs = JobService(settings)

        @jobs.handler("mail")
        async def mail(payload: object) -> str:
            return "sent"

        for node in servers.nodes[1:]:
            node.kill()
        async with jobs, jobs.worker() as worker, jobs.router() as router:
            for part in (worker, router):
                await eventually(lambda part=part: "the server cannot be asked" in part.why_not_ready, within=30)
            for node in servers.nodes[1:]:
                node.start()
            await eventually(lambda: worker.ready and not router.why_not_ready, within=60)
            job_id = await jobs.submit("mail", None)
            assert await jobs.result(job_id) == "sent"
