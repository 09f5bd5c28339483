"""The micro service itself: bounded, and never ended by what it serves."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.micro import admission
from jsjobs.jetstream.micro import service as micro_service
from jsjobs.jetstream.micro.service import Endpoint, MicroService, Refused, ServiceRequest, one_line
from jsjobs.model.errors import Reason
from tcp_proxy import TcpProxy

ERROR, CODE = "Nats-Service-Error", "Nats-Service-Error-Code"


def service(connection: Connection, name: str, serve, *, most_bytes: int = 1000, grace: float = 5) -> MicroService:
    endpoints = [Endpoint("one", f"{name}.one", serve, most_bytes), Endpoint("two", f"{name}.two", quick, most_bytes)]
    return MicroService(
        connection, name=name, version="1.0.0", description="a test's", endpoints=endpoints, grace=grace
    )


async def quick(request: ServiceRequest) -> AsyncIterator[bytes]:
    yield request.body


async def test_one_request_too_many_is_refused_and_other_endpoints_go_on(
    connection: Connection, plain: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()

    async def wait(request: ServiceRequest) -> AsyncIterator[bytes]:
        await go.wait()
        yield request.body

    async with service(connection, namespace, wait) as served:
        requests = [
            asyncio.ensure_future(plain.request(f"{namespace}.one", b"%d" % n, timeout=30)) for n in range(1000)
        ]

        async def all_wait() -> bool:
            return served.requests == admission.MOST_REQUESTS == 1000

        await eventually(all_wait)
        refused = await plain.request(f"{namespace}.one", b"", timeout=5)
        assert refused.headers == {
            ERROR: "RunnerUnavailable: busy: 1000 requests to one are in progress here, try again",
            CODE: "503",
        }
        assert (await plain.request(f"{namespace}.two", b"2", timeout=5)).data == b"2"
        go.set()
        assert [answer.data for answer in await asyncio.gather(*requests)] == [b"%d" % n for n in range(1000)]
        assert (await plain.request(f"{namespace}.one", b"again", timeout=5)).data == b"again"


async def test_the_memory_of_requests_is_bounded(
    connection: Connection, plain: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MOST_BYTES", 25)
    go = asyncio.Event()

    async def wait(request: ServiceRequest) -> AsyncIterator[bytes]:
        await go.wait()
        yield b"done"

    async with service(connection, namespace, wait) as served:
        two = [asyncio.ensure_future(plain.request(f"{namespace}.one", b"x" * 10, timeout=30)) for _ in range(2)]

        async def both_wait() -> bool:
            return served.requests == 2

        await eventually(both_wait)
        refused = await plain.request(f"{namespace}.two", b"x" * 10, timeout=5)
        assert refused.headers[CODE] == "503"
        assert (await plain.request(f"{namespace}.two", b"x" * 5, timeout=5)).data == b"xxxxx"
        go.set()
        assert [answer.data for answer in await asyncio.gather(*two)] == [b"done", b"done"]
        for _ in range(3):  # what has ended takes none
            assert (await plain.request(f"{namespace}.two", b"x" * 20, timeout=5)).data == b"x" * 20


async def test_whatever_a_request_ends_in_the_next_one_is_served(
    connection: Connection, plain: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: ServiceRequest) -> AsyncIterator[bytes]:
        match request.body:
            case b"error":
                raise ValueError("a secret")
            case b"cancelled":
                raise asyncio.CancelledError
            case b"timeout":
                raise TimeoutError
            case b"large":
                yield b"x" * 2 * 2**20
            case b"refused":
                raise Refused(404, Reason.NOT_FOUND, "nobody\r\nknows \x1b[31mit\0 " + "x" * 5000)
        yield b"served"

    codes = {}
    async with service(connection, namespace, fail) as served:
        for body in (b"error", b"cancelled", b"timeout", b"large", b"refused"):
            refused = await plain.request(f"{namespace}.one", body, timeout=5)
            assert refused.data == b""
            codes[body.decode()] = refused.headers[CODE]
            text = refused.headers[ERROR]
            assert "secret" not in text
            assert text.isprintable()
            assert len(text) <= 1000
            assert (await plain.request(f"{namespace}.one", b"good", timeout=5)).data == b"served"
        assert served.requests == 0
    assert codes == {"error": "503", "cancelled": "503", "timeout": "503", "large": "503", "refused": "404"}
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info[0] for record in logged] == [ValueError, TimeoutError]


async def test_no_request_is_served_for_ever(
    connection: Connection, plain: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_service, "LONGEST", 0.2)
    ended = asyncio.Event()

    async def endless(_: ServiceRequest) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with service(connection, namespace, endless) as served:
        inbox = await plain.subscribe(plain.new_inbox())
        await plain.publish(f"{namespace}.one", b"", reply=inbox.subject)
        while (answer := await inbox.next_msg(timeout=5)).data:
            assert answer.data == b"tick"
        assert answer.headers == {ERROR: "Timeout: not done within 0.2 s: try again", CODE: "503"}
        await asyncio.wait_for(ended.wait(), 5)
        assert served.requests == 0


async def test_its_end_takes_what_was_delivered_and_cuts_short_what_does_not_end(
    connection: Connection, plain: Client, namespace: str
) -> None:
    async def wait(request: ServiceRequest) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05 if request.body == b"short" else 60)
        yield b"done"

    served = service(connection, namespace, wait, grace=2)
    async with served:
        bodies = [b"short"] * 50 + [b"long"] * 50
        requests = [asyncio.ensure_future(plain.request(f"{namespace}.one", body, timeout=10)) for body in bodies]

        async def all_wait() -> bool:
            return served.requests >= 100

        await eventually(all_wait)
    answers = await asyncio.gather(*requests)
    assert [answer.data for answer in answers[:50]] == [b"done"] * 50
    assert {answer.headers[CODE] for answer in answers[50:]} == {"503"}
    assert served.requests == 0


async def test_stopping_at_once_does_not_wait(connection: Connection, plain: Client, namespace: str) -> None:
    async def wait(_: ServiceRequest) -> AsyncIterator[bytes]:
        await asyncio.sleep(600)
        yield b""

    async with service(connection, namespace, wait, grace=600) as served:
        request = asyncio.ensure_future(plain.request(f"{namespace}.one", b"", timeout=60))

        async def waits() -> bool:
            return served.requests == 1

        await eventually(waits)
        served.stop_taking()
        served.stop_now()
        assert (await request).headers[CODE] == "503"


def test_a_header_is_one_printable_line() -> None:
    assert one_line("a\r\nb\x00c\u2028d  e") == "a b c d e"
    assert one_line("ü" * 2000) == "ü" * 999 + "…"


@pytest.mark.parametrize("wrong", [{"name": "a b"}, {"name": ""}, {"version": "next"}])
def test_what_nats_does_not_take_as_a_service(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"nvalid|empty"):
        MicroService(
            Connection.__new__(Connection),
            **{"name": "x", "version": "1.0.0", "description": "", "endpoints": [], "grace": 1} | wrong,
        )


async def test_it_starts_in_an_outage_and_serves_once_that_is_over(
    proxy: TcpProxy, far: Connection, plain: Client, namespace: str
) -> None:
    proxy.swallows = {"request"}
    async with service(far, namespace, quick):
        proxy.swallows = set()
        proxy.cut()

        async def serves() -> bool:
            return (await plain.request(f"{namespace}.one", b"here", timeout=1)).data == b"here"

        await eventually(serves)
