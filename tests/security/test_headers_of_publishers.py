"""Whatever headers a publisher sends: the server refuses the message, or its job runs as any other does."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamInfo
from secured import USERS, inbox_of, password, plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.rpc import Rpc

Settings = Callable[..., JobService.Config]

OWN_MEANING = (
    *("Nats-TTL", "Nats-Rollup", "Nats-Schedule", "Nats-Schedule-TTL", "Nats-Schedule-Target", "Nats-Schedule-Rollup"),
)
"""On a schedule's subject; in a queue they have none."""
NAMES = (
    *OWN_MEANING,
    *("Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Msg-Id"),
    *("Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Subject-Sequence-Subject"),
    *("Nats-Msg-Id", "Nats-Incr", "Nats-Counter-Sources", "Nats-Marker-Reason", "KV-Operation"),
    *("Nats-Schedule-Source", "Nats-Schedule-Time-Zone", "Nats-Schedule-Next", "Nats-Scheduler"),
    *("Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit", "Nats-Fast-Batch-Id"),
    *("Nats-Stream-Source", "Nats-Required-Api-Level", "Nats-Request-Info", "Nats-Response-Type"),
    *("Nats-Trace-Only", "Nats-Trace-Hop", "Nats-Trace-Origin-Account", "Accept-Encoding"),
    # What the server itself puts on a message that it hands out.
    *("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Last-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending"),
    *("Nats-Pending-Messages", "Nats-Pending-Bytes", "Nats-Last-Consumer", "Nats-Last-Stream", "Nats-Msg-Size"),
    *("Nats-Consumer-Stalled", "Nats-Pin-Id", "Status", "Description"),
)
VALUES = ("", "0", "1", "1s", "-1", "99999999999999999999", "all", "sub", "true", "purge", "MaxAge", ">", "\xe9 \x00")
TOGETHER = (
    "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: jobs.normal.e.echo\r\nNats-Schedule-TTL: 1s\r\n",
    "Nats-Batch-Id: one\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\nNats-TTL: 1s\r\n",
    "Nats-Batch-Id: two\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\n",
    "Nats-Batch-Id: three\r\nNats-Batch-Sequence: 2\r\nNats-Batch-Commit: 1\r\n",
    "nats-ttl: 1s\r\n",
    "Nats-TTL:\r\nNats-TTL: 1s\r\n",
    "X: Nats-TTLNats-TTL\r\nNats-TTL: 1s\r\n",
    "X: y\rNats-TTL: 1s\r\n",
    "X: Nats-RollupNats-Rollup\r\nNats-Rollup: all\r\n",
    "Nats-TTL: 1s\r\nNats-Marker-Reason: MaxAge\r\n",
    (
        "Nats-Sequence: 1\r\nNats-Stream: KV_jobs\r\nNats-Subject: jobs.work.low.1x1.0.other\r\n"
        "Nats-Time-Stamp: 2020-01-01T00:00:00Z\r\nNats-Last-Sequence: 1\r\nNats-Num-Pending: 0\r\n"
    ),
)


def blocks(without: tuple[str, ...] = ()) -> Iterator[str]:
    """All of them; a header that makes the server answer nothing is not among them."""
    names = [name for name in NAMES if name not in without]
    yield from (f"{name}: {value}\r\n" for name, value in itertools.product(names, VALUES))
    if not without:
        yield from TOGETHER


class Raw:
    """A client that sends what no library would, and hears what the server says to it."""

    def __init__(self, client: Client, user: str) -> None:
        self._client, self._inbox = client, f"{inbox_of(user)}.raw"
        self._answers: dict[str, asyncio.Future[dict[str, object]]] = {}
        self._count = itertools.count()

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, user: str) -> AsyncIterator["Raw"]:
        async with plain_client(url, user) as client:
            raw = cls(client, user)
            await client.subscribe(f"{inbox_of(user)}.raw.*", cb=raw.hear)
            yield raw

    async def hear(self, message: Msg) -> None:
        answer = self._answers.pop(message.subject)
        answer.set_result({**(message.headers or {}), **json.loads(message.data or b"{}")})

    async def publish(self, subject: str, lines: str, body: bytes) -> dict[str, object]:
        reply = f"{self._inbox}.{next(self._count)}"
        answer = self._answers[reply] = asyncio.get_running_loop().create_future()
        block = b"NATS/1.0\r\n%b\r\n" % lines.encode("latin-1")
        command = b"HPUB %b %b %d %d\r\n" % (subject.encode(), reply.encode(), len(block), len(block) + len(body))
        await self._client._send_command(command + block + body + b"\r\n")
        await self._client._flush_pending()
        return await asyncio.wait_for(answer, 10)


class Echo:
    """A worker whose handler notes what it was called with, one after the other."""

    def __init__(self, worker: JobService) -> None:
        self.ran: list[str] = []
        self.at_once = self.most_at_once = 0

        @worker.handler("echo")
        async def echo(payload: object, ctx: JobService.Context) -> object:
            self.ran.append(ctx.job_id)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(0.001)
            self.at_once -= 1
            return payload


async def queue_of(url: str, stream: str) -> StreamInfo:
    async with plain_client(url, "root") as root:
        return await root.jetstream().stream_info(stream)


@pytest.mark.parametrize(
    ("subject", "stream", "place"),
    [
        ("jobs.normal.e.echo", "JOBS_NORMAL", "normal"),
        ("jobs.parallel.normal.-.echo", "JOBS_NORMAL_PARALLEL", "normal-parallel"),
    ],
    ids=["ordered", "parallel"],
)
async def test_a_job_runs_whatever_headers_its_publisher_sent_or_is_refused(
    as_user: Settings, subject: str, stream: str, place: str
) -> None:
    url, accepted, refused = as_user("operator").nats_url, list[str](), 0
    worker = JobService(as_user("worker"))
    echo = Echo(worker)
    async with Raw.of(url, "publisher") as raw, JobService(as_user("operator")) as operator:
        for number, lines in enumerate(blocks()):
            answer = await raw.publish(subject, lines, b"%d" % number)
            if "error" in answer:
                refused += 1
            elif answer and not answer.get("duplicate"):  # the begin of a batch is answered with nothing
                accepted.append(f"{place}-{answer['seq']}")
        assert len(accepted) > 200
        assert refused > 80
        for job_id in accepted:
            status = await operator.status(job_id)
            assert (status.status, status.type, status.priority) == ("queued", "echo", "normal"), job_id
        async with worker, worker.worker():
            others = [await operator.submit("echo", "other", priority="low"), await operator.submit("echo", "other")]
            for job_id in (*accepted, *others):
                await operator.result(job_id, timeout=60)

            async def is_empty() -> bool:
                return (await queue_of(url, stream)).state.messages == 0

            await eventually(is_empty)
    own = [job_id for job_id in echo.ran if job_id in set(accepted)]
    assert sorted(own) == sorted(accepted), "each once"
    assert place != "normal" or own == accepted, "in the order in which they were stored"
    assert len(echo.ran) == len(accepted) + 2


async def test_jobs_of_one_entity_run_one_at_a_time_whatever_time_to_live_they_ask_for(as_user: Settings) -> None:
    url, worker = as_user("operator").nats_url, JobService(as_user("worker"))
    echo = Echo(worker)
    async with Raw.of(url, "publisher") as raw, JobService(as_user("operator")) as operator, worker, worker.worker():
        told = [await raw.publish("jobs.normal.e.echo", "Nats-TTL: 1s\r\n", b"%d" % number) for number in range(7)]
        await operator.result(await operator.submit("echo", "last", entity="e"), timeout=20)
    assert {answer.get("error", {}).get("err_code") for answer in told} == {10166}
    assert echo.most_at_once == len(echo.ran) == 1


async def test_the_service_takes_no_notice_of_such_headers(as_user: Settings) -> None:
    config, ids = as_user("service", tenant_types=10), list[str]()
    worker = JobService(as_user("worker"))
    echo = Echo(worker)
    async with Raw.of(config.nats_url, "publisher") as raw, JobService(config) as jobs, Rpc(jobs):
        for number, lines in enumerate(blocks()):
            body = json.dumps({"type": "echo", "payload": number, "entity": "e"}).encode()
            answer = await raw.publish("jobs.rpc.submit", lines, body)
            assert ("job_id" in answer) or answer["Nats-Service-Error-Code"] == "400", lines
            ids += [answer["job_id"]] if "job_id" in answer else []
        assert len(ids) > 500
        async with worker, worker.worker():
            for job_id in ids:
                await jobs.result(job_id, timeout=60)
    assert echo.ran == ids
    assert echo.most_at_once == 1


async def test_who_may_delay_jobs_harms_none_with_the_other_headers(as_user: Settings) -> None:
    url, due, ids = as_user("operator").nats_url, "2020-01-01T00:00:00Z", list[str]()
    worker = JobService(as_user("worker"))
    echo = Echo(worker)
    async with Raw.of(url, "delaying") as raw, JobService(as_user("operator")) as operator, worker, worker.worker():
        waits = await operator.submit("echo", "waits", delay=3600)
        for number, lines in enumerate(blocks(OWN_MEANING)):
            schedule = f"Nats-Schedule: @at {due}\r\nNats-Schedule-Target: jobs.due.normal.e.echo\r\n"
            answer = await raw.publish(f"jobs.at.at-x{number}", f"{schedule}Jsjobs-Id: at-x{number}\r\n{lines}", b"1")
            if answer and "error" not in answer and not answer.get("duplicate"):
                ids.append(f"at-x{number}")
        assert len(ids) > 200
        for job_id in ids:
            with suppress(JobService.Error):  # some headers fire with it, and are a dead job then
                await operator.result(job_id, timeout=60)
        assert (await operator.status(waits)).status == "queued"
        for job_id in ids:
            assert (await operator.status(job_id)).status in {"complete", "failed"}
    assert len(set(echo.ran)) == len(echo.ran)


@pytest.mark.long
async def test_what_fired_outlives_its_time_to_live_once_its_queue_has_it(
    as_user: Settings, secured_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = as_user("operator").nats_url
    async with Raw.of(url, "delaying") as raw:
        schedule = "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: jobs.due.normal.e.echo\r\n"
        await raw.publish("jobs.at.at-short", f"{schedule}Nats-Schedule-TTL: 1s\r\nJsjobs-Id: at-short\r\n", b'"x"')

    async def is_only_in_its_queue() -> bool:
        async with plain_client(url, "root") as root:
            left = (await root.jetstream().stream_info("JOBS_SCHEDULE")).state.messages
            return left == 0 and (await root.jetstream().stream_info("JOBS_NORMAL")).state.messages == 1

    await eventually(is_only_in_its_queue)
    for user in USERS:
        monkeypatch.setenv(f"JSJOBS_{user.upper()}_PASSWORD", password(user))
    secured_server.stop()
    secured_server.start()
    worker = JobService(as_user("worker"))
    Echo(worker)
    async with JobService(as_user("operator")) as operator, worker, worker.worker():
        assert await operator.result("at-short", timeout=20) == "x"


async def test_a_schedule_that_rolls_up_takes_no_job_out_of_its_queue(as_user: Settings) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, Raw.of(url, "delaying") as raw:
        await operator.submit("echo", [1, 2, 3], entity="e")
        schedule = "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: jobs.due.normal.e.echo\r\n"
        await raw.publish("jobs.at.at-x", f"{schedule}Nats-Schedule-Rollup: sub\r\nJsjobs-Id: at-x\r\n", b"1")

        async def has_all() -> bool:
            return (await queue_of(url, "JOBS_NORMAL")).state.messages == 4

        await eventually(has_all)


async def test_a_publisher_has_nothing_traced_to_where_it_may_not_publish(as_user: Settings) -> None:
    url = as_user("operator").nats_url
    async with plain_client(url, "publisher") as publisher, plain_client(url, "root") as root:
        await publisher.publish("jobs.normal.e.echo", b"1", headers={"Nats-Trace-Dest": "$KV.jobs.normal-1"})
        await publisher.jetstream().publish("jobs.normal.e.echo", b"2")
        assert (await queue_of(url, "JOBS_NORMAL")).state.messages == 1, "the server refuses such a message"
        state = await root.jetstream().stream_info("KV_jobs", subjects_filter="$KV.jobs.normal-1")
        assert not state.state.subjects
