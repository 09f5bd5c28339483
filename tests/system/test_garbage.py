"""What anyone may publish costs exactly its own job, and is kept byte for byte."""

import asyncio
import json
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer

LIMIT = 896 * 1024


class RawPublisher:
    """Speaks the protocol itself, so that it can publish what no client library would."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def __aenter__(self) -> Self:
        host, port = self._address.hostname, self._address.port
        self._reader, self._writer = await asyncio.open_connection(host, port, limit=2**22)
        await self._reader.readline()
        self._writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nSUB raw.inbox 1\r\n')
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def publish(self, subject: bytes, body: bytes, header: bytes | None = None) -> dict[str, Any]:
        """The server's acknowledgement."""
        if header is None:
            command = b"PUB %b raw.inbox %d\r\n" % (subject, len(body))
        else:
            command = b"HPUB %b raw.inbox %d %d\r\n%b" % (subject, len(header), len(header) + len(body), header)
        self._writer.write(command + body + b"\r\n")
        async with asyncio.timeout(10):
            while not (line := await self._reader.readline()).startswith(b"MSG "):
                assert not line.startswith(b"-ERR"), line
                if line.startswith(b"PING"):
                    self._writer.write(b"PONG\r\n")
            answer: dict[str, Any] = json.loads(await self._reader.readexactly(int(line.split()[-1])))
        return answer


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


HEADER_AT_THE_LIMIT = block(b"Jsjobs-Tenant: acme")
BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{nope",
    "not UTF-8": b'"\xc3\x28"',
    "as large as the queue takes": b"x" * LIMIT,
    "NUL": b'{"a": "\x00"}',
    "lone surrogate": b'"\xed\xa0\x80"',
    "lone surrogate escaped": b'"\\ud800"',
    "NaN": b"[NaN]",
    "infinity": b'{"a": -Infinity}',
    "two values": b"1 2",
    "byte order mark": b"\xef\xbb\xbf1",
    "deep": b"[" * 100_000,
}
BAD_HEADERS = {
    "no block at all": b"NATS/1.0",
    "half a block": b"NATS/1.0\r\n",
    "other version": b"NATS/9.9\r\nA: b\r\n\r\n",
    "no colon": block(b"Jsjobs-Tenant: acme", b"A"),
    "space in a name": block(b"Jsjobs-Tenant: acme", b"A b: c"),
    "byte above 127 in a name": block(b"Jsjobs-Tenant: acme", b"A\xff: c"),
    "attempts": block(b"Jsjobs-Max-Attempts: many"),
    "attempts of a superscript": block("Jsjobs-Max-Attempts: ²".encode()),
    "no attempts": block(b"Jsjobs-Max-Attempts: 0"),
    "too many attempts": block(b"Jsjobs-Max-Attempts: 1001"),
    "attempts of 5000 digits": block(b"Jsjobs-Max-Attempts: " + b"9" * 5000),
    "duration": block(b"Jsjobs-Duration: eternal"),
    "timeout": block(b"Jsjobs-Timeout: nan"),
    "negative timeout": block(b"Jsjobs-Timeout: -1"),
    "empty tenant": block(b"Jsjobs-Tenant: "),
    "odd bytes in the tenant": block(b"Jsjobs-Tenant: a\x00b\x07\x1b"),
    "long tenant": block(b"Jsjobs-Tenant: " + b"t" * 300),
    "empty entity": block(b"Jsjobs-Entity:"),
    "request id": block(b"Jsjobs-Request-Id: \x0b\x7f"),
    "batch": block(b"Jsjobs-Batch: \x01"),
    "given id": block(b"Jsjobs-Id: critical-17"),
    "given id with a star": block(b"Jsjobs-Id: replay-*"),
}
BAD_SUBJECTS = {
    "type nobody knows": b"nobody.knows.me",
    "control character": b"echo\x0b",
    "bytes above 127": b"echo\xff\xfe\xc3",
    "NUL": b"ec\x00ho",
    "very long": b"t" * 3500,
    "quotes": b"\"echo'\\",
    "many words": b".".join([b"w"] * 30),
}
GOOD = {
    "a status line, which the server takes away": b"NATS/1.0 503 Nope\r\n\r\n",
    "odd header values": block(b"Custom: \xff\xfe\x00\x01", b"Other:   ", b"Third: a:b: c"),
    "hundreds of headers": block(*(b"X-%d: %d" % (n, n) for n in range(500))),
    "the same name twice": block(b"Jsjobs-Tenant: first", b"jsjobs-tenant: second"),
    "escaped NUL in the payload": b"",
}


async def test_garbage_costs_its_own_job_alone(  # noqa: C901 - every kind of garbage meets the same worker
    jobs: JobService, nats_server: NatsServer, plain: Client, caplog: pytest.LogCaptureFixture
) -> None:
    @jobs.handler("echo")
    async def echo(payload: Any) -> Any:
        return payload

    namespace = jobs.config.namespace.encode()
    stream = f"{jobs.config.namespace.upper()}_NORMAL".encode()
    bad: dict[str, tuple[str, bytes, bytes | None, bytes]] = {}
    good: dict[str, Any] = {}
    number = 0

    async with RawPublisher(nats_server.url) as raw, jobs.worker() as worker, jobs.router():

        async def publish(job_type: bytes, body: bytes, header: bytes | None = None) -> str:
            nonlocal number
            number += 1
            answer = await raw.publish(b"%b.normal.e%d.%b" % (namespace, number % 5, job_type), body, header)
            assert "seq" in answer, answer
            return f"normal-{answer['seq']}"

        async def publish_bad(what: str, job_type: bytes, body: bytes, header: bytes | None = None) -> None:
            bad[await publish(job_type, body, header)] = (what, body, header, job_type)
            value = [number]
            good[await publish(b"echo", json.dumps(value).encode())] = value

        for name, body in BAD_BODIES.items():
            await publish_bad(name, b"echo", body)
        for name, header in BAD_HEADERS.items():
            await publish_bad(name, b"echo", b"1", header)
        for name, job_type in BAD_SUBJECTS.items():
            await publish_bad(name, job_type, b'{"s": 1}')
        await publish_bad(
            "largest with headers", b"echo", b"y" * (LIMIT - len(HEADER_AT_THE_LIMIT)), HEADER_AT_THE_LIMIT
        )
        expecting = block(b"Nats-Expected-Stream: " + stream, b"Nats-Msg-Id: once", b"Nats-Odd: \xff")
        await publish_bad("the server's own headers", b"nobody", b"2", expecting)
        for header in GOOD.values():
            good[await publish(b"echo", b'"\\u0000"', header or None)] = "\0"

        async def all_buried() -> bool:
            return len(await jobs.dlq.list(limit=1000)) >= len(bad)

        results = await asyncio.gather(*(jobs.result(job_id) for job_id in good))
        await eventually(all_buried)
        assert results == list(good.values())
        assert worker.ready
        for subject, header, body in (
            (b"echo", None, b"x" * (LIMIT + 1)),
            (b"echo", block(b"Nats-Expected-Last-Sequence: 1"), b"1"),
            (b"echo", block(b"Nats-Expected-Stream: OTHER"), b"1"),
        ):
            refused = await raw.publish(b"%b.normal.e1.%b" % (namespace, subject), body, header)
            assert refused["error"]["code"] == 400
        rows = {row.original_job_id: row for row in await jobs.dlq.list(limit=1000)}
    assert set(rows) == set(bad)
    for job_id, (what, body, header, job_type) in bad.items():
        row = rows[job_id]
        assert row.payload == body, what
        assert row.headers_raw == header, what
        assert row.error_reason == ("Validation" if job_type == b"echo" else "HandlerMissing"), what
        assert len(row.error_history) == row.attempts == 1, what
    unexpected = [record for record in caplog.records if record.exc_info]
    assert unexpected == []
    queue = await plain.jetstream().stream_info(stream.decode())
    assert queue.state.messages == 0


async def test_a_body_above_the_limit_is_refused_to_its_publisher(jobs: JobService, plain: Client) -> None:
    for size in (LIMIT, 1024 * 1024 - 10, 2 * 1024 * 1024):
        with pytest.raises(JobService.Error, match=r"too large|max_payload") as caught:
            await jobs.submit("echo", "x" * size)
        assert caught.value.reason == "Validation"
    with pytest.raises((APIError, NatsError)) as refused:
        await plain.jetstream().publish(f"{jobs.config.namespace}.normal.e.echo", b"x" * (LIMIT + 1))
    assert "exceeds" in str(refused.value)
    assert (await plain.jetstream().stream_info(f"{jobs.config.namespace.upper()}_NORMAL")).state.messages == 0
    assert await jobs.submit("echo", "x" * (LIMIT - 2 - 200))
