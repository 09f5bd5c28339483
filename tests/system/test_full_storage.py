"""Storage is full: jobs wait, and it is said once; with room they go on, and none is lost or run twice."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from facts import eventually
from full_storage import BALLAST, NAMED, LimitedServer, fill, fill_disk, make_room, small_disk
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.partitions import live_partitions

TOLD, OVER = "nothing can be stored", "jobs can be stored again"


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


async def test_a_router_whose_letters_cannot_be_ended_is_not_ready_until_there_is_room(
    limit: str, limited_config: JobService.Config, filling: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jsjobs.router")
    async with JobService(limited_config) as jobs:

        @jobs.handler("dies")
        async def dies(_: int) -> None:
            raise JobService.Error.from_validation("it shall die")

        async with jobs.worker():
            ids = await jobs.submit("dies", [0, 1, 2])
            for job_id in ids:
                await eventually(lambda job_id=job_id: is_failed(jobs, job_id))
        await fill(filling)
        async with jobs.router() as router:
            await eventually(lambda: NAMED[limit] in router.why_not_ready)
            assert NAMED[limit] in router.trouble
            await make_room(filling)
            await eventually(lambda: not router.why_not_ready and not router.trouble, within=40)
            await eventually(lambda: no_letter_waits(filling, limited_config), within=40)
        assert sorted(letter.original_job_id for letter in await jobs.dlq.list(limit=100)) == sorted(ids)
    assert len(lines(caplog, "dead letters are pending: ")) == 1
    assert len(lines(caplog, "dead letters are stored again")) == 1


async def test_what_is_due_astray_stays_while_there_is_no_room_and_a_sweep_does_all_else(
    limit: str, limited_config: JobService.Config, filling: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(limited_config.namespace)
    async with JobService(limited_config) as jobs:
        jobs.register_handler("note", lambda payload: payload)
        for number in range(5):
            await filling.ask(f"{names.namespace}.due.nowhere.{number}".encode(), b"1")
        async with jobs.worker():
            await jobs.result(await jobs.submit("note", 1, delay=0.1))
        router = jobs.router()

        async def due() -> int:
            request = {"subjects_filter": f"{names.namespace}.due.>"}
            info = await call(filling, f"STREAM.INFO.{names.schedule_stream}", request)
            return sum((info["state"].get("subjects") or {}).values())

        async def is_purged() -> bool:
            await router.sweep()
            return await due() == 5

        await fill(filling)
        await eventually(is_purged)
        await router.sweep()
        assert await due() == 5
        assert NAMED[limit] in lines(caplog, "could not be made a dead letter")[0]
        await make_room(filling)

        async def are_buried() -> bool:
            await router.sweep()
            return await due() == 0

        await eventually(are_buried)


async def is_failed(jobs: JobService, job_id: str) -> bool:
    return (await jobs.status(job_id)).status == "failed"


async def no_letter_waits(connection: Connection, config: JobService.Config) -> bool:
    info = await call(connection, f"STREAM.INFO.{Names(config.namespace).dead_stream}")
    return info["state"]["messages"] == 0


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
            await eventually(lambda: jobs.dlq.find(ids["dies"]))
            await eventually(lambda: worker.ready and other.ready and router.why_not_ready == "")
            await eventually(lambda: worker.running + other.running == 0)
        assert ran == {"ends": 1, "is retried": 2, "dies": 1}
        histories = {payload: [item.status for item in (await jobs.status(ids[payload])).history] for payload in what}
        assert histories == {
            "ends": ["processing", "complete"],
            "is retried": ["processing", "queued", "processing", "complete"],
            "dies": ["processing", "failed"],
        }


@pytest.mark.long
@pytest.mark.parametrize("expired", ["dead_letter", "drop"])
async def test_a_job_whose_start_had_to_wait_until_it_expired_is_not_run(
    expired: str, limited_config: JobService.Config, filling: Connection
) -> None:
    ran: list[int] = []
    async with JobService(limited_config) as jobs:
        jobs.register_handler("run", ran.append)
        late = await jobs.submit("run", 1, expires=3, expired=expired)
        in_time = await jobs.submit("run", 2, expires=60, priority="high")
        await fill(filling)
        async with jobs.worker() as worker, jobs.router():
            await eventually(lambda: worker.running == 2)
            await asyncio.sleep(3.5)
            await make_room(filling)
            await jobs.result(in_time, timeout=30)
            with pytest.raises(JobService.Error, match=r"the job expired at 20.*before it was started") as caught:
                await jobs.result(late, timeout=30)
            assert caught.value.reason == "Timeout"
            if expired == "dead_letter":
                await eventually(lambda: jobs.dlq.find(late))
            await eventually(lambda: worker.running == 0)
        status = await jobs.status(late)
    assert (status.attempts, [item.status for item in status.history], ran) == (0, ["failed"], [2])


@pytest.mark.long
async def test_a_large_result_that_waits_for_room_keeps_its_job(
    limit: str, limited_config: JobService.Config, filling: Connection
) -> None:
    """The second write of an end, which leaves earlier failures out, waits as the first one would."""
    ran: list[int] = []
    go = asyncio.Event()
    result = "x" * (2**20 - 10_000)
    async with JobService(limited_config) as jobs, JobService(limited_config) as others:

        async def run(payload: int, ctx: JobService.Context) -> str:
            ran.append(ctx.attempt)
            if ctx.attempt <= payload:
                raise RuntimeError("!" * 4000)
            await go.wait()
            return result

        for each in (jobs, others):
            each.handler("run", retry=JobService.Retry(initial=0, max_retries=9))(run)
        async with jobs.worker() as worker, others.worker() as other:
            job_id = await jobs.submit("run", 5, duration="long", max_attempts=9)
            await eventually(lambda: len(ran) == 6)
            await fill(filling)
            go.set()
            await eventually(lambda: NAMED[limit] in worker.why_not_ready + other.why_not_ready)
            await asyncio.sleep(2 * limited_config.ack_wait)
            assert await deliveries(filling, limited_config) == 6
            await make_room(filling)
            assert await jobs.result(job_id, timeout=30) == result
            await eventually(lambda: worker.ready and other.ready and not worker.running + other.running)
    assert ran == [1, 2, 3, 4, 5, 6]


async def deliveries(connection: Connection, config: JobService.Config) -> int:
    """How many jobs were delivered so far, again or for the first time."""
    names = Names(config.namespace)
    consumers = [*(await live_shards(connection, names)).values(), *(await live_partitions(connection, names)).values()]
    return sum(info.delivered.consumer_seq for info in consumers)


class Full:
    """A server that can be filled, and given room, by its disk; or by its own limit, where no disk can be mounted."""

    def __init__(self, server: NatsServer, disk: Path | None) -> None:
        self.server = server
        self.disk = disk

    @property
    def named(self) -> str:
        return NAMED["server"] if self.disk is None else "the disk of its server may be full"

    async def fill(self, connection: Connection) -> None:
        if self.disk is None:
            await fill(connection)
        else:
            await fill_disk(self.disk)

    async def make_room(self, connection: Connection) -> None:
        """As the documentation says: room first, then a restart."""
        if self.disk is None:
            await make_room(connection)
        else:
            (self.disk / BALLAST).unlink()
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.start)


@pytest.fixture
async def full(tmp_path: Path, settings_of: Callable[..., JobService.Config]) -> AsyncIterator[Full]:
    with small_disk(tmp_path / "disk") as disk, LimitedServer(disk or tmp_path / "nats", "server") as server:
        await server.prepare(settings_of(nats_url=server.url))
        if disk is None:
            await server.lower()
        yield Full(server, disk)


@pytest.mark.long
async def test_a_full_disk_is_said_and_after_a_restart_of_the_server_all_jobs_end(
    full: Full, settings_of: Callable[..., JobService.Config], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jsjobs")
    ran: list[tuple[str, int]] = []
    config = settings_of(nats_url=full.server.url)
    async with JobService(config) as jobs, connected(config) as filling:

        @jobs.handler("count")
        async def count(payload: dict[str, int]) -> str:
            ran.extend(payload.items())
            return "x" * 3000

        async def submitted(numbers: range) -> list[str]:
            return [
                await jobs.submit("count", {entity: number}, entity=entity, priority="high")
                for number in numbers
                for entity in "abcd"
            ]

        ids = await submitted(range(3))
        async with jobs.worker() as worker:
            await jobs.results(ids, timeout=30)
            await full.fill(filling)
            with contextlib.suppress(JobService.Error):  # the queue itself may be full by now
                ids += await submitted(range(3, 8))
            await eventually(lambda: full.named in worker.why_not_ready, within=60)
            assert len(lines(caplog, TOLD)) == 1
            await full.make_room(filling)
            # Nobody publishes from now on.
            await jobs.results(ids, timeout=60)
            await eventually(lambda: worker.ready and worker.running == 0)
        for entity in "abcd":
            begun = list(dict.fromkeys(number for name, number in ran if name == entity))
            assert begun == sorted(begun)
        for job_id in ids:
            history = [item.status for item in (await jobs.status(job_id)).history]
            assert history.count("complete") == 1
            assert history[-1] == "complete"
