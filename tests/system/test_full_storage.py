"""Storage is full: jobs wait, and it is said once; with room they go on, and none is lost or run twice."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from facts import eventually
from full_storage import NAMED, LimitedServer, fill, make_room
from jsjobs import JobService
from jsjobs.jetstream.connect import connected
from jsjobs.jetstream.connection import Connection

TOLD, OVER = "nothing can be stored", "what had to wait is stored again"


@pytest.fixture(params=list(NAMED))
def limit(request: pytest.FixtureRequest) -> str:
    """Whose limit is reached."""
    return str(request.param)


@pytest.fixture
def limited(limit: str, tmp_path: Path) -> Iterator[LimitedServer]:
    with LimitedServer(tmp_path / "nats", limit) as server:
        yield server


@pytest.fixture
async def limited_config(limited: LimitedServer, settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    """Of a namespace on it, whose limit is low by now."""
    config = settings_of(nats_url=limited.url)
    await limited.prepare(config)
    await limited.lower()
    return config


@pytest.fixture
async def filling(limited_config: JobService.Config) -> AsyncIterator[Connection]:
    """Somebody else on the same server, who fills it and makes room."""
    async with connected(limited_config) as connection:
        yield connection


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


async def test_full_storage_is_said_once_and_left_without_a_restart(
    limit: str, limited_config: JobService.Config, filling: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jsjobs")
    ran: list[tuple[str, int]] = []
    async with JobService(limited_config) as jobs:

        @jobs.handler("count")
        async def count(payload: dict[str, int]) -> int:
            ran.extend(payload.items())
            return sum(payload.values())

        ids = [
            await jobs.submit("count", {entity: number}, entity=entity, priority=priority)
            for number in range(4)
            for entity, priority in (("a", "critical"), ("b", "high"), ("c", "normal"))
        ]
        await fill(filling)
        async with jobs.worker() as worker:
            await eventually(lambda: NAMED[limit] in worker.why_not_ready)
            assert not worker.ready
            with pytest.raises(JobService.Error, match=f"nothing was queued: {NAMED[limit]}") as refused:
                await jobs.submit("count", {"d": 1})
            assert refused.value.is_transient
            with pytest.raises(JobService.Error, match=NAMED[limit]) as refused:
                await jobs.cancel(ids[-1])
            assert refused.value.is_transient
            assert (await jobs.status(ids[-1])).status == "queued"
            assert not ran
            await asyncio.sleep(limited_config.ack_wait)
            assert len(lines(caplog, TOLD)) == 1
            await make_room(filling)
            assert await jobs.results(ids, timeout=30) == [number for number in range(4) for _ in "abc"]
            await eventually(lambda: worker.ready)
            await eventually(lambda: worker.running == 0)
        for entity in "abc":
            assert [number for name, number in ran if name == entity] == [0, 1, 2, 3]
        for job_id in ids:
            status = await jobs.status(job_id)
            assert [item.status for item in status.history] == ["processing", "complete"]
    assert len(lines(caplog, TOLD)) == 1
    assert len(lines(caplog, OVER)) == 1


@pytest.mark.long
async def test_an_end_that_cannot_be_written_is_written_later_and_the_job_runs_once(
    limit: str, limited_config: JobService.Config, filling: Connection
) -> None:
    """The storage fills up while jobs run, and stays full for longer than `ack_wait`; another worker is there."""
    ran: Counter[str] = Counter()
    go = asyncio.Event()
    async with JobService(limited_config) as jobs, JobService(limited_config) as others:

        async def run(payload: str) -> str:
            ran[payload] += 1
            if ran[payload] == 1:
                await go.wait()
            if payload == "dies":
                raise JobService.Error.from_validation("it shall die")
            if payload == "is retried" and ran[payload] == 1:
                raise ValueError("not yet")
            return payload

        for each in (jobs, others):
            each.handler("run")(run)
        what = {"ends": "critical", "is retried": "high", "dies": "normal"}
        async with jobs.worker() as worker, others.worker() as other, jobs.router() as router:
            ids = {
                payload: await jobs.submit("run", payload, priority=priority, duration="long")
                for payload, priority in what.items()
            }
            await eventually(lambda: len(ran) == len(what))
            await fill(filling)
            go.set()
            await eventually(lambda: NAMED[limit] in worker.why_not_ready + other.why_not_ready)
            await asyncio.sleep(3 * limited_config.ack_wait)
            assert ran == Counter(list(what))
            await make_room(filling)
            assert await jobs.results([ids["ends"], ids["is retried"]], timeout=30) == ["ends", "is retried"]
            await eventually(lambda: jobs.letters().find(ids["dies"]))
            await eventually(lambda: worker.ready and other.ready and router.why_not_ready == "")
            await eventually(lambda: worker.running + other.running == 0)
        assert ran == {"ends": 1, "is retried": 2, "dies": 1}
        histories = {payload: [item.status for item in (await jobs.status(ids[payload])).history] for payload in what}
        assert histories == {
            "ends": ["processing", "complete"],
            "is retried": ["processing", "queued", "processing", "complete"],
            "dies": ["processing", "failed"],
        }
