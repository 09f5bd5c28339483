"""Whatever a stranger sends costs its own request alone, and is answered with what was wrong."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from nats.aio.client import Client
from rpc_client import Asking

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.lanes import QUEUES
from jsjobs.rpc import Rpc
from stream_facts import messages_in

ENDPOINTS = ("submit", "tenant.acme.submit", "status", "result", "progress", "cancel", "reschedule", "replay")
BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{nope",
    "half": b'{"job_id": "normal-1"',
    "two values": b"{} {}",
    "not UTF-8": b'{"job_id": "\xc3\x28"}',
    "lone surrogate": b'{"job_id": "\\ud800"}',
    "NaN": b'{"job_id": "x", "timeout": NaN, "payload": NaN, "type": "t", "dlq_id": "x"}',
    "NaN in a payload": b'{"type": "t", "payload": {"a": NaN}}',
    "lone surrogate in a payload": b'{"type": "t", "payload": "\\ud800"}',
    "infinity": b'{"type": "t", "payload": [-Infinity]}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep": b'{"type": "t", "payload": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "not so deep": b'{"type": "t", "payload": ' + b"[" * 196 + b"]" * 196 + b"}",
    "long number": b'{"type": "t", "payload": ' + b"9" * 5000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"normal-1"',
    "nothing in it": b"{}",
    "unknown key": b'{"type": "t", "job_id": "normal-1", "dlq_id": "x", "extra": 1}',
    "numbers for names": b'{"type": 1, "job_id": 1, "dlq_id": 1}',
    "nulls for names": b'{"type": null, "job_id": null, "dlq_id": null}',
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_bodies_that_cannot_be_read(jobs: JobService, rpc: Rpc, ask: Asking, endpoint: str) -> None:
    for name, body in BAD_BODIES.items():
        answer = await ask(endpoint, body)
        assert answer.outcome == (400, "Validation"), name
        assert len(answer.error) <= 1000, name
        assert answer.error.isprintable(), name
        assert answer.value is None, name
    assert (await ask("submit", {"type": "echo"})).code is None
    assert await queued(jobs) == 1


async def queued(jobs: JobService) -> int:
    names = Names(jobs.config.namespace)
    streams = [names.queue(queue) for queue in QUEUES]
    return sum([await messages_in(jobs.connection, stream) for stream in streams])


SUBMIT = {"type": "echo", "payload": 1}
BAD_FIELDS: dict[str, list[dict[str, Any]]] = {
    "submit": [
        {**SUBMIT, **wrong}
        for wrong in (
            {"type": "no spaces"},
            {"type": "t" * 201},
            {"type": "a..b"},
            {"type": ""},
            {"priority": "urgent"},
            {"priority": 1},
            {"entity": ""},
            {"entity": "e" * 257},
            {"entity": "a\nb"},
            {"entity": ["a"]},
            {"dedupe_key": " k"},
            {"max_attempts": 0},
            {"max_attempts": "5"},
            {"max_attempts": 1.5},
            {"max_attempts": 1001},
            {"duration": "eternal"},
            {"timeout": -1},
            {"timeout": "5s"},
            {"expires": 0},
            {"expires": True},
            {"expires": "30s"},
            {"expires": "2020-01-01T00:00:00Z"},
            {"expires": "2099-01-01T00:00:00"},
            {"expires": {"seconds": 3}},
            {"expires": 60, "expired": "vanish"},
            {"timeout": 1e300},
            {"tenant": "\x1b[31m"},
            {"request_id": ""},
            {"delay": "5s"},
            {"at": "2030-01-01T00:00:00"},
            {"batch_id": "a.b"},
        )
    ],
    "result": [{"job_id": "normal-1", "timeout": wrong} for wrong in (0, -1, 3601, "1", None, True)],
    "cancel": [{"job_id": "normal-1", "timeout": wrong} for wrong in (0, 1e9, "1", [])],
    "replay": [{"dlq_id": "x", **wrong} for wrong in ({"priority": "urgent"}, {"force": 1}, {"force": "yes"})],
}


@pytest.mark.parametrize("endpoint", BAD_FIELDS)
async def test_fields_that_cannot_be_used(jobs: JobService, rpc: Rpc, ask: Asking, endpoint: str) -> None:
    for body in BAD_FIELDS[endpoint]:
        answer = await ask(endpoint, body)
        assert answer.outcome == (400, "Validation"), body
        assert answer.error.isprintable(), body
    assert await queued(jobs) == 0


@pytest.mark.parametrize("endpoint", ["status", "result", "progress", "cancel"])
async def test_ids_of_no_job(
    jobs: JobService, rpc: Rpc, ask: Asking, endpoint: str, settings_of: Callable, deploy: Callable
) -> None:
    other = settings_of(namespace=f"o{jobs.config.namespace}")
    await deploy(other)
    async with JobService(other) as others:
        foreign = await others.submit("echo")
    ids = (
        "normal-17",
        "nonsense",
        "",
        "normal-0",
        "normal-99999999999999999999",
        "at-x",
        "replay-1-x",
        "*",
        ">",
        foreign,
    )
    for job_id in (*ids, "normal-1 ", "topology.normal", "normal-1\r\nPUB x 0", "x" * 9000):
        answer = await ask(endpoint, {"job_id": job_id})
        assert answer.outcome == (404, "NotFound"), job_id
        assert answer.error.isprintable()


async def test_letters_that_are_none(rpc: Rpc, ask: Asking) -> None:
    for dlq_id in ("normal-17", "0", "f" * 300, "", "%", "'; --", "\x00"):
        answer = await ask("replay", {"dlq_id": dlq_id})
        assert answer.outcome in {(404, "NotFound"), (400, "Validation")}, dlq_id
    gone = await ask("replay", {"dlq_id": "3b241101-e2bb-4255-8caf-4136c566a962"})
    assert gone.outcome == (404, "NotFound")


async def test_requests_that_are_too_large(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    answer = await ask("submit", {"type": "echo", "payload": "x" * 900 * 1024})
    assert answer.outcome == (400, "Validation")
    assert "too large" in answer.error or "the limit of" in answer.error
    for endpoint in ("status", "result", "progress", "cancel", "replay"):
        answer = await ask(endpoint, {"job_id": "x" * 17_000})
        assert answer.outcome == (400, "Validation")
        assert f"the limit of {endpoint} is 16384" in answer.error
    assert await queued(jobs) == 0
    assert (await ask("submit", {"type": "echo", "payload": "x" * 800 * 1024})).code is None


async def test_a_payload_that_does_not_fit_its_handler(jobs: JobService, rpc: Rpc, ask: Asking) -> None:
    @jobs.handler("count")
    async def count(payload: list[int]) -> int:
        return len(payload)

    answer = await ask("submit", {"type": "count", "payload": ["a secret"]})
    assert answer.outcome == (400, "Validation")
    assert "a secret" not in answer.error
    receipt = await ask.done("submit", {"type": "count", "payload": [1, 2]})
    async with jobs.worker():
        assert (await ask.done("result", {"job_id": receipt["job_id"]}))["result"] == 2


BAD_HEADERS = {
    "no block at all": b"NATS/1.0",
    "half a block": b"NATS/1.0\r\n",
    "other version": b"NATS/9.9\r\nA: b\r\n\r\n",
    "no colon": b"NATS/1.0\r\nA\r\n\r\n",
    "space in a name": b"NATS/1.0\r\nA b: c\r\n\r\n",
}


async def test_headers_that_cannot_be_read(
    jobs: JobService, rpc: Rpc, ask: Asking, nats_server: NatsServer, plain: Client
) -> None:
    for endpoint in ENDPOINTS:
        for name, header in BAD_HEADERS.items():
            subject = f"{jobs.config.namespace}.rpc.{endpoint}"
            said = await raw_request(nats_server.url, subject.encode(), header, json.dumps(SUBMIT).encode())
            assert b"Nats-Service-Error: Validation: " in said, (endpoint, name)
            assert b"Nats-Service-Error-Code: 400\r\n" in said, (endpoint, name)
    for trace in ("nonsense", "00-0-0-0"):
        answer = await ask("submit", SUBMIT, headers={"traceparent": trace, "X-Odd": "ü"})
        assert answer.code is None, "a trace that cannot be read is none"
    assert await queued(jobs) == 2


async def raw_request(url: str, subject: bytes, header: bytes, body: bytes) -> bytes:
    """One request as no client library would send it, and its answer's header block."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**22)
    try:
        await reader.readline()
        command = b"HPUB %b raw.%b %d %d\r\n%b%b\r\n" % (
            subject,
            subject,
            len(header),
            len(header) + len(body),
            header,
            body,
        )
        hello = b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nSUB raw.%b 1\r\n' % subject
        writer.write(hello + command)
        async with asyncio.timeout(10):
            while not (line := await reader.readline()).startswith(b"HMSG "):
                assert line, "the server closed the connection"
                assert not line.startswith((b"-ERR", b"MSG")), line
            return await reader.readexactly(int(line.split()[-1]))
    finally:
        writer.close()
        await writer.wait_closed()


async def test_who_asks_to_be_answered_on_a_subject_of_ours_is_not_served(
    jobs: JobService, rpc: Rpc, ask: Asking, plain: Client
) -> None:
    name = jobs.config.namespace
    job_id = await jobs.submit("echo")
    hostile = [
        f"{name}.normal.e.echo",
        f"{name}.parallel.normal.-.echo",
        f"{name}.cancel.{job_id}",
        f"$KV.{name}.{job_id}",
        "$JS.API.STREAM.NAMES",
    ]
    heard = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    for subject in (f"{name}.normal.>", f"{name}.parallel.>", f"{name}.cancel.>", f"$KV.{name}.>"):
        await plain.subscribe(subject, cb=hear)
    for reply in (*hostile, ""):
        for endpoint in ENDPOINTS:
            await plain.publish(
                f"{name}.rpc.{endpoint}", json.dumps({**SUBMIT, "job_id": job_id}).encode(), reply=reply
            )
            await plain.publish(f"{name}.rpc.{endpoint}", json.dumps({"job_id": job_id}).encode(), reply=reply)
            await plain.publish(f"{name}.rpc.{endpoint}", json.dumps(SUBMIT).encode(), reply=reply)
        for verb in ("PING", "INFO", "STATS"):
            await plain.publish(f"$SRV.{verb}.{name}", b"", reply=reply)
    await ask.done("status", {"job_id": job_id})  # behind all of them, on the same connections
    await plain.flush()
    assert heard == []
    assert await queued(jobs) == 1
    assert (await jobs.status(job_id)).status == "queued"
    assert (await call(jobs.connection, "STREAM.NAMES"))["streams"]
