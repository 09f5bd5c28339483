"""What a hostile client can do to the health endpoints: nothing."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from facts import eventually
from jsjobs.health import HealthServer, Readiness


@pytest.fixture
async def server() -> Iterator[HealthServer]:
    with HealthServer(lambda: Readiness(["no streams"], ["letters wait"]), host="127.0.0.1", port=0) as server:
        yield server


async def ask(server: HealthServer, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"GET /live HTTP/1.1", 200),
        (b"GET /live?verbose=1 HTTP/1.0", 200),
        (b"HEAD /live HTTP/1.1", 200),
        (b"GET /ready HTTP/1.1", 503),
        (b"GET / HTTP/1.1", 404),
        (b"GET /ready/../live HTTP/1.1", 404),
        (b"POST /live HTTP/1.1", 405),
        (b"DELETE /ready HTTP/1.1", 405),
        (b"\xff\xfe\x00 /live HTTP/1.1", 405),
        (b"GET /live HTTP/9.9", 505),
        (b"GET /live HTTP/x", 400),
        (b"one two three four five", 400),
        (b"GET /live" + b"x" * 100_000 + b" HTTP/1.1", 404),
    ],
)
async def test_only_get_and_head_of_two_paths(server: HealthServer, request_line: bytes, code: int, capfd) -> None:
    head, body = await ask(server, request_line + b"\r\n\r\n")
    assert int(head.split()[1]) == code
    assert (body == b"") == request_line.startswith(b"HEAD")
    if body:
        assert set(json.loads(body)) <= {"status", "reasons", "notes"}
    assert (b"Allow: GET, HEAD" in head) == (code == 405)
    assert b"Python" not in head
    assert capfd.readouterr().err == ""


async def test_reasons_and_notes_are_told(server: HealthServer) -> None:
    _, body = await ask(server, b"GET /ready HTTP/1.1\r\n\r\n")
    assert json.loads(body) == {"status": "not ready", "reasons": ["no streams"], "notes": ["letters wait"]}


async def test_an_endless_header_is_cut(server: HealthServer) -> None:
    head, _ = await ask(server, b"GET /live HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"c: " + b"x" * 200_000)
    assert head.startswith(b"HTTP/1.0 ")


async def test_who_says_nothing_occupies_nothing(server: HealthServer) -> None:
    threads = threading.active_count()
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(150)]
    for _, writer in silent:
        writer.write(b"GET /li")
    head, _ = await ask(server, b"GET /live HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert threading.active_count() <= threads + 40

    async def are_cut() -> bool:
        return threading.active_count() <= threads

    await eventually(are_cut)
    for _, writer in silent:
        writer.close()


async def test_who_says_something_now_and_then_occupies_nothing_either(server: HealthServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    reading = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(20):
        writer.write(b"GET /live HTTP/1.1\r\na: ")
        while not reading.done():
            writer.write(b"b")  # so that no single read is too late
            await asyncio.wait({reading}, timeout=0.2)
    reading.exception()  # looked at: whether it was told or only cut does not matter
    writer.close()


async def test_a_client_that_hangs_up_costs_no_word(server: HealthServer, capfd) -> None:
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /ready HTTP/1.1\r\n\r\n")
        writer.transport.abort()
    head, _ = await ask(server, b"GET /live HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert capfd.readouterr().err == ""
