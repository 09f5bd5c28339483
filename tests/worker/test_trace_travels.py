"""Trace context travels with telemetry off too, and no job dies of a tracing header."""

from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.headers import parse_job_headers
from jsjobs.model.trace import NO_TRACE, Trace

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_from_a_publisher_through_a_handler_into_what_it_submits(jobs: JobService, plain: Client) -> None:
    traces: dict[str, Any] = {}

    @jobs.handler("first")
    async def first(payload: int) -> None:
        traces["first"] = jobs.current_context().trace
        await jobs.submit("second", [payload])

    @jobs.handler("second")
    def second(payload: int) -> None:
        traces["second"] = jobs.current_context().trace

    headers = {"traceparent": GOOD, "tracestate": "a=1"}
    await plain.jetstream().publish(f"{jobs.config.namespace}.high.e.first", b"1", headers=headers)
    async with jobs.worker():

        async def have_run() -> bool:
            return len(traces) == 2

        await eventually(have_run)
    assert traces == {"first": Trace(GOOD, "a=1"), "second": Trace(GOOD, "a=1")}


async def test_a_job_submitted_outside_of_any_trace_carries_none(jobs: JobService) -> None:
    @jobs.handler("first")
    async def first(payload: int) -> bool:
        return jobs.current_context().trace == NO_TRACE

    async with jobs.worker():
        assert await jobs.result(await jobs.submit("first", 1))


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"00-zz", GOOD.encode() + b"\nX: y", GOOD.encode() + b"-more", b"x" * 10_000]
)
@pytest.mark.parametrize("beside", [b"", b"Jsjobs-Tenant: acme\r\n"])
async def test_a_hostile_header_is_no_trace_and_the_job_runs(jobs: JobService, value: bytes, beside: bytes) -> None:
    block = b"NATS/1.0\r\n%btraceparent: %b\r\ntracestate: %b\r\n\r\n" % (beside, value, value)

    @jobs.handler("first")
    async def first(payload: int) -> int:
        assert jobs.current_context().trace == NO_TRACE
        return payload

    reply = await jobs.connection.ask(f"{jobs.config.namespace}.high.e.first".encode(), b"7", header=block)
    sequence = reply.data.split(b'"seq":')[1].split(b",")[0].strip(b" }").decode()
    async with jobs.worker():
        assert await jobs.result(f"high-{sequence}", timeout=10) == 7


def test_what_stands_beside_a_trace_is_judged_as_without_it() -> None:
    line = b"what is no header at all\r\n"
    without = parse_job_headers(b"NATS/1.0\r\n" + line + b"\r\n")
    with_trace = parse_job_headers(b"NATS/1.0\r\n" + line + b"TRACEPARENT: " + GOOD.encode() + b"\r\n\r\n")
    assert with_trace.trace == Trace(GOOD)
    assert (with_trace.tenant, without.trace) == (without.tenant, NO_TRACE)
