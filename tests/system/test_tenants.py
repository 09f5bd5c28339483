"""Whose job it is, and which submit is the same as an earlier one."""

import asyncio
from collections import Counter

from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService


async def test_the_app_id_is_the_tenant_however_the_job_was_submitted(jobs: JobService, plain: Client) -> None:
    children: dict[str, str] = {}

    @jobs.handler("dies")
    async def dies(payload: str) -> None:
        raise JobService.Error.from_validation(f"{payload} shall die")

    @jobs.handler("parent")
    async def parent(payload: str) -> None:
        children["inherits"] = await jobs.submit("dies", "child")
        with jobs.request_context(tenant_id="another"):
            children["chooses"] = await jobs.submit("dies", "child")

    @jobs.handler("parent.thread")
    def parent_in_thread(payload: str) -> None:
        future = asyncio.run_coroutine_threadsafe(jobs.submit("dies", "child of a thread"), loop)
        children["thread"] = future.result(10)

    loop = asyncio.get_running_loop()
    js, namespace = plain.jetstream(), jobs.config.namespace
    tenant_header = {"Jsjobs-Tenant": "raw inc."}
    raw = await js.publish(f"{namespace}.high.e.dies", b'"raw"', headers=tenant_header)
    bare = await js.publish(f"{namespace}.high.e.dies", b'"bare"')
    expected = {f"high-{raw.seq}": "raw inc.", f"high-{bare.seq}": "default", await jobs.submit("dies", "x"): "default"}
    async with jobs.worker(), jobs.router():
        with jobs.request_context(tenant_id="acme", request_id="r-1"):
            expected[await jobs.submit("dies", "context")] = "acme"
            first = await jobs.submit("parent", "p")
            second = await jobs.submit("parent.thread", "p")
            batch = await jobs.submit("dies", ["b1", "b2"], priority="low")
        expected |= dict.fromkeys(batch, "acme")
        await asyncio.gather(jobs.result(first), jobs.result(second))
        expected |= {children["inherits"]: "acme", children["chooses"]: "another", children["thread"]: "acme"}

        async def all_rows() -> bool:
            return len(await jobs.dlq.list()) == len(expected)

        await eventually(all_rows)
        rows = await jobs.dlq.list()
        assert {row.original_job_id: row.app_id for row in rows} == expected
        assert {row.original_job_id for row in await jobs.dlq.list(tenant="another")} == {children["chooses"]}
    child = await jobs.dlq.find(children["inherits"])
    assert ("Jsjobs-Request-Id", "r-1") in child.headers


async def test_a_dedupe_key_runs_once_per_tenant_and_type(jobs: JobService, plain: Client) -> None:
    seen: list[tuple[str, str | None]] = []

    @jobs.handler("charge")
    async def charge(payload: int, ctx: JobService.Context) -> None:
        seen.append(("charge", ctx.tenant_id))

    @jobs.handler("refund")
    async def refund(payload: int, ctx: JobService.Context) -> None:
        seen.append(("refund", ctx.tenant_id))

    first = await jobs.submit("charge", 1, dedupe_key="order-7")
    async with jobs.worker():
        assert await jobs.result(first) is None
        again = await jobs.submit("charge", 2, dedupe_key="order-7")  # it has ended and is still the same
        many = await asyncio.gather(*(jobs.submit("charge", 3, dedupe_key="order-7") for _ in range(20)))
        assert {again, *many} == {first}
        assert all(job_id.duplicate for job_id in (again, *many))
        assert not first.duplicate
        others = [await jobs.submit("refund", 1, dedupe_key="order-7")]
        with jobs.request_context(tenant_id="acme"):
            others.append(await jobs.submit("charge", 1, dedupe_key="order-7"))
        js, subject = plain.jetstream(), f"{jobs.config.namespace}.normal.e.charge"
        raw = [await js.publish(subject, b"1", headers={"Nats-Msg-Id": "own-key"}) for _ in range(2)]
        assert [ack.duplicate or False for ack in raw] == [False, True]
        assert raw[0].seq == raw[1].seq
        others.append(f"normal-{raw[0].seq}")
        listed = await jobs.submit("charge", [1, 2, 3], dedupe_key="list-1")
        longer = await jobs.submit("charge", [1, 2, 3, 4], dedupe_key="list-1")
        assert longer[:3] == listed
        assert [job_id.duplicate for job_id in longer] == [True, True, True, False]
        for job_id in [*others, *longer]:
            await jobs.result(job_id)
    assert len({first, *others, *longer}) == 1 + 3 + 4
    assert Counter(seen) == {("charge", None): 1 + 1 + 4, ("refund", None): 1, ("charge", "acme"): 1}
