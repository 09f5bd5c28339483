"""What publishers can send into a parallel lane: it harms nothing but itself, and takes nobody's turn by another's name."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from secured import plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.messages import stored
from jsjobs.rpc import Rpc
from stream_facts import messages_in

Settings = Callable[..., JobService.Config]


async def partitions_of(operator: JobService, tenant: str | None) -> set[bytes]:
    """The partitions in which jobs of a tenant wait."""
    found = set()
    async for message in stored(operator.connection, "JOBS_NORMAL_PARALLEL"):
        named = (
            f"Jsjobs-Tenant: {tenant}\r\n".encode() in message.header
            if tenant
            else b"Jsjobs-Tenant" not in message.header
        )
        if named:
            found.add(message.subject.split(b".")[3])
    return found


async def test_a_publisher_chooses_the_partition_and_a_tenant_does_not(as_user: Settings) -> None:
    config = as_user("service")
    async with (
        JobService(as_user("operator")) as operator,
        JobService(config) as service,
        Rpc(service),
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "publisher") as publisher,
    ):
        for more in ({}, {"tenant": "other"}, {"key": "other"}, {"request_id": "other"}):
            form = json.dumps({"type": "echo", "payload": 1, **more}).encode()
            answer = await acme.request("jobs.rpc.tenant.acme.submit", form, timeout=10)
            assert bool(answer.headers) == ("key" in more or "tenant" in more), answer
        assert len(await partitions_of(operator, "acme")) == 1
        for number in range(40):
            await publisher.jetstream().publish(f"jobs.parallel.normal.k{number}.echo", b"1")
        assert await partitions_of(operator, None) == {b"0", b"1", b"2", b"3"}


class Strange:
    """Messages that no library would send, and what becomes of the job of each."""

    def __init__(self, namespace: str) -> None:
        self.lane = f"{namespace}.parallel.normal".encode()

    def all(self) -> list[tuple[bytes, bytes, bytes, str | None]]:
        """Subject, header lines, body; the reason for which the job is dead, None where it runs."""
        echo = b"%b.-.echo" % self.lane
        return [
            (echo, b"", b"", "Validation"),
            (echo, b"", b"{not json", "Validation"),
            (echo, b"", b"\xff\xfe", "Validation"),
            (echo, b"", b"[" * 5000 + b"]" * 5000, "Validation"),
            (echo, b"Jsjobs-Entity: customer-42\r\n", b"1", "Validation"),
            (echo, b"Jsjobs-Entity: customer-42\r\nJsjobs-Entity: b\r\n", b"1", "Validation"),
            (echo, b"Jsjobs-Max-Attempts: many\r\n", b"1", "Validation"),
            (echo, b"Jsjobs-Timeout: -1\r\n", b"1", "Validation"),
            (echo, b"Jsjobs-Duration: forever\r\n", b"1", "Validation"),
            (echo, b"Jsjobs-Tenant: \xff\xfe\r\n", b"1", None),
            (echo, b"Jsjobs-Id: at-somebody-elses\r\n", b"1", "Validation"),
            (echo, b"Own: " + b"h" * 60_000 + b"\r\n", b"1", None),
            (echo, b"no colon\r\n", b"1", None),
            (b"%b.%b.echo" % (self.lane, b"k" * 2000), b"", b"1", None),
            (b"%b.\xff\xfe.echo" % self.lane, b"", b"1", None),
            (b"%b.-.nobody.knows.it" % self.lane, b"", b"1", "HandlerMissing"),
            (b"%b.-.%b" % (self.lane, b"t" * 3000), b"", b"1", "HandlerMissing"),
            (b"%b.-.\xff\xfe\xc3" % self.lane, b"", b"1", "HandlerMissing"),
            (b"%b.-.\x1b[2J" % self.lane, b"", b"1", "HandlerMissing"),
        ]


class Sender:
    """Publishes byte for byte, and hears the server's receipt."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.receipts: asyncio.Queue[bytes] = asyncio.Queue()
        self.inbox = client.new_inbox()

    @classmethod
    @asynccontextmanager
    async def of(cls, client: Client) -> AsyncIterator["Sender"]:
        sender = cls(client)

        async def hear(message: object) -> None:
            sender.receipts.put_nowait(message.data)

        await client.subscribe(sender.inbox, cb=hear)
        yield sender

    async def send(self, subject: bytes, lines: bytes, body: bytes) -> int:
        block = b"NATS/1.0\r\n%b\r\n" % lines
        words = b"%b %b %d %d" % (subject, self.inbox.encode(), len(block), len(block) + len(body))
        await self._client._send_command(b"HPUB %b\r\n%b%b\r\n" % (words, block, body))
        await self._client.flush()
        receipt = json.loads(await asyncio.wait_for(self.receipts.get(), 10))
        assert "error" not in receipt, receipt
        return receipt["seq"]


async def test_a_malformed_job_harms_no_other_job_of_its_lane(jobs: JobService, plain: Client) -> None:
    ran: list[object] = []

    @jobs.handler("echo")
    async def echo(payload: object) -> object:
        ran.append(payload)
        return payload

    strange = Strange(jobs.config.namespace).all()
    async with jobs.worker() as worker, Sender.of(plain) as sender:
        places = {}
        for number, (subject, lines, body, reason) in enumerate(strange):
            places[f"normal-parallel-{await sender.send(subject, lines, body)}"] = reason
            good = await jobs.submit("echo", f"good {number}", tenant=f"t{number}")
            assert await jobs.result(good, timeout=10) == f"good {number}"
        for job_id, reason in places.items():

            async def has_ended(job_id: str = job_id, reason: str | None = reason) -> bool:
                status = await jobs.status(job_id)
                return (status.status, status.error_reason) == ("complete" if reason is None else "failed", reason)

            await eventually(has_ended)
        assert worker.ready
        assert ran.count(1) == sum(reason is None for reason in places.values())
        await eventually(lambda: _is_empty(jobs))


async def test_who_hears_a_workers_requests_can_answer_them_with_nothing_that_harms(
    jobs: JobService, plain: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """With the role of no file: one that is restricted by nothing hears them, and publishes where it likes."""
    jobs.register_handler("echo", lambda payload: payload)
    seen: list[str] = []
    statuses = (
        "404 No Messages",
        "408 Request Timeout",
        "409 Consumer Deleted",
        "409 x",
        "503",
        "100 Idle",
        "1e9",
        "\xff",
    )

    async def answer(message: Msg) -> None:
        seen.append(message.reply)
        head = message.reply.rpartition(".")[0]
        for inbox in (message.reply, f"{head}.x", f"{head}.{'9' * 3000}", f"{head}.1.2.3", f"{head}.-1"):
            await plain.publish(inbox, b"1")
            for status in statuses:
                block = f"NATS/1.0 {status}\r\n\r\n".encode("latin-1")
                await plain._send_command(b"HPUB %b %d %d\r\n%b\r\n" % (inbox.encode(), len(block), len(block), block))

    await plain.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", cb=answer)
    await plain.flush()
    async with jobs.worker() as worker:
        await eventually(lambda: worker.ready and seen)
        for number in range(20):
            assert await jobs.result(await jobs.submit("echo", number), timeout=10) == number
        assert worker.ready
    assert [record for record in caplog.records if record.exc_info] == []


async def _is_empty(jobs: JobService) -> bool:
    return await messages_in(jobs.connection, f"{jobs.config.namespace.upper()}_NORMAL_PARALLEL") == 0
