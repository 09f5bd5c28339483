"""Advisories and letters that a stranger made up: they dead-letter nothing, overwrite nothing and block nothing."""

import asyncio
import json
from typing import Any

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.maintenance import router as router_module


async def nothing_waits(plain: Client, namespace: str) -> bool:
    return (await plain.jetstream().stream_info(f"{namespace.upper()}_DEAD")).state.messages == 0


async def entities_on_two_shards(jobs: JobService, plain: Client) -> tuple[str, str]:
    """Two entities of different shards of `critical`, found by asking the server itself."""
    stream, places = f"{jobs.config.namespace.upper()}_CRITICAL", {}
    for number in range(40):
        job_id = await jobs.submit("quick", number, priority="critical", entity=f"e{number}")
        message = await plain.jetstream().get_msg(stream, int(job_id.partition("-")[2]))
        places.setdefault(message.subject.split(".")[4], f"e{number}")
    return places["0"], places["1"]


async def test_a_forged_advisory_buries_nothing(jobs: JobService, plain: Client) -> None:
    go_on = asyncio.Event()

    @jobs.handler("quick")
    async def quick(payload: int) -> int:
        return payload

    @jobs.handler("waits")
    async def waits(payload: int) -> int:
        await go_on.wait()
        return payload

    namespace = jobs.config.namespace
    stream = f"{namespace.upper()}_CRITICAL"
    first, second = await entities_on_two_shards(jobs, plain)
    async with jobs.worker(), jobs.router():
        running = await jobs.submit("waits", 1, priority="critical", entity=first, duration="long")
        behind = await jobs.submit("quick", 2, priority="critical", entity=first)
        # The other shard is past both of them.
        last = await jobs.submit("quick", 3, priority="critical", entity=second)
        assert await jobs.result(last) == 3
        sequences = [int(job_id.partition("-")[2]) for job_id in (running, behind)]

        async def is_running() -> bool:
            return (await jobs.status(running)).status == "processing"

        await eventually(is_running)
        forged: list[Any] = [
            {"stream": stream, "consumer": f"critical-1x4-{shard}", "stream_seq": sequence}
            for sequence in [*sequences, sequences[1] + 100]
            for shard in range(5)
        ]
        true_shape = {"stream": stream, "consumer": "critical-1x4-0", "stream_seq": sequences[0]}
        odd_sequences = (-1, 0, 1, True, 1.5, "1", None, [], 10**30, 2**64, -(2**63), 1e300)
        forged += [true_shape | {"stream_seq": sequence} for sequence in odd_sequences]
        odd_names = ("", "router", "*", ">", "a b", "a.b", "\0", "\ud800", "ü", "x" * 5000, None, [], {}, 7)
        forged += [true_shape | {"consumer": name} for name in odd_names]
        forged += [true_shape | {"stream": name} for name in (*odd_names, "OTHER", f"KV_{namespace}")]
        forged += [{}, [], None, 1, "x", [true_shape]]
        bodies = [json.dumps(advisory).encode() for advisory in forged]
        bodies += [b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"stream_seq": ' + b"9" * 5000 + b"}", b"x" * 500_000]
        for body in bodies:
            await plain.jetstream().publish(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.critical-1x4-0", body)
        await eventually(lambda: nothing_waits(plain, namespace))
        assert [(await jobs.status(job_id)).status for job_id in (running, behind)] == ["processing", "queued"]
        go_on.set()
        assert await jobs.result(running) == 1
        assert await jobs.result(behind) == 2
        assert await jobs.dlq.list() == []
        true = await jobs.submit("nobody.knows", 4, priority="critical")
        assert (await eventually(lambda: jobs.dlq.find(true))).error_reason == "HandlerMissing"


async def test_forged_letters_neither_block_nor_overwrite(
    jobs: JobService, plain: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "PATIENT_DELIVERIES", 2)
    go_on = asyncio.Event()

    @jobs.handler("waits")
    async def waits(payload: int) -> int:
        await go_on.wait()
        raise JobService.Error.from_validation("dead for a true reason")

    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    namespace = jobs.config.namespace
    async with jobs.worker(), jobs.router():
        done = await jobs.submit("echo", 1)
        assert await jobs.result(done) == 1
        with jobs.request_context(tenant_id="acme"):
            dead = await jobs.submit("dies.of.no.handler", {"true": True})
        row = await eventually(lambda: jobs.dlq.find(dead))
        running = await jobs.submit("waits", 2, duration="long")

        async def is_running() -> bool:
            return (await jobs.status(running)).status == "processing"

        await eventually(is_running)
        tokens = [
            done,
            dead,
            running,
            "high-17",
            "replay-1-x",
            "at-x",
            "critical-",
            "ü",
            "\x0b",
            "'; drop table job_dlq",
            "a.b.c",
        ]
        tokens = [token.replace(" ", "_") for token in tokens] + [
            "x" * 3800,
            "topology.normal",
            "-",
            "critical-0",
            "a\x00b",
        ]
        odd = {"Jsjobs-Headers-Size": "٣", "Jsjobs-Reason": "Nonsense"}
        for token in tokens:
            for headers in (None, {"Jsjobs-Headers-Size": "9" * 5000}, {"Jsjobs-Headers-Size": "-1"}, odd):
                await plain.jetstream().publish(f"{namespace}.dead.{token}", b"\x00forged\xff", headers=headers)
        await eventually(lambda: nothing_waits(plain, namespace))
        rows = {letter.original_job_id: letter for letter in await jobs.dlq.list(limit=1000)}
        assert done not in rows
        assert rows[dead] == row
        assert (await jobs.status(done)).status == "complete"
        assert (await jobs.status(running)).status == "processing"
        later = await jobs.submit("dies.of.no.handler", {"later": True}, priority="high")
        assert (await eventually(lambda: jobs.dlq.find(later))).payload == b'{"later":true}'
        go_on.set()
        with pytest.raises(JobService.Error, match="a true reason"):
            await jobs.result(running)

        async def is_told_truly() -> bool:
            return (await jobs.dlq.find(running)).payload == b"2"

        await eventually(is_told_truly)  # its letter is written after the entry that `result` saw
        await eventually(lambda: nothing_waits(plain, namespace))
        true = await jobs.dlq.find(running)
        assert (true.payload, true.error_reason) == (b"2", "Validation")
        assert [item["error"] for item in true.error_history] == ["Validation: dead for a true reason"]


@pytest.mark.parametrize("entry", ["readable", "of a later version"])
async def test_a_forged_letter_of_a_cancelled_job_is_dropped(
    jobs: JobService, plain: Client, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setattr(router_module, "PATIENT_DELIVERIES", 0)
    namespace = jobs.config.namespace
    job_id = await jobs.submit("note", 1)
    assert (await jobs.cancel(job_id)).status == "cancelled"
    if entry == "of a later version":
        await plain.jetstream().publish(f"$KV.{namespace}.{job_id}", b'{"v": 99, "status": "cancelled"}')
    await plain.jetstream().publish(f"{namespace}.dead.{job_id}", b"forged", headers={"Jsjobs-Reason": "Timeout"})
    async with jobs.router():
        await eventually(lambda: nothing_waits(plain, namespace))
    assert await jobs.dlq.list() == []
