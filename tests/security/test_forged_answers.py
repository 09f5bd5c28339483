"""Who sees a request, or answers one, cannot answer another: not by a right, and not by a guess."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from secured import plain_client, wire

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
STATUS = {"status": "failed", "type": "echo", "priority": "normal", "attempts": 1, "history": []}


def successors(reply: str) -> Iterator[str]:
    """The reply subjects that follow one, if the last word of it, or its last character, counts up."""
    head, _, last = reply.rpartition(".")
    with suppress(ValueError):
        yield from (f"{head}.{int(last, 16) + further:x}" for further in range(1, 120))
    yield from (f"{head}.{last[:-1]}{digit}" for digit in DIGITS)
    yield reply


@asynccontextmanager
async def forging(client: Client, *subjects: str, bodies: tuple[bytes, ...]) -> AsyncIterator[list[str]]:
    """Answer, on and on, every reply subject that may follow those which the client sees in requests on some subjects."""
    seen: list[str] = []

    async def see(message: Msg) -> None:
        seen.append(message.reply)

    async def forge() -> None:
        while True:
            for reply in list(successors(seen[-1])) if seen else ():
                for body in bodies:
                    await client.publish(reply, body)
            await asyncio.sleep(0)

    for subject in subjects:
        await client.subscribe(subject, cb=see)
    await client.flush()
    task = asyncio.ensure_future(forge())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("forger", ["worker", "root"])
async def test_who_sees_a_cancel_request_answers_nothing_else(as_user: Settings, forger: str) -> None:
    """A worker lacks the right; whoever has every right in the account cannot guess."""
    url = as_user("operator").nats_url
    receipt = json.dumps({"stream": "JOBS_NORMAL_PARALLEL", "seq": 7}).encode()
    async with JobService(as_user("operator")) as operator, plain_client(url, forger) as client:
        job_id = await operator.submit("echo", 1)
        status = json.dumps({**STATUS, "job_id": job_id, "created_at": "2026-01-01T00:00:00Z"}).encode()
        async with forging(client, "jobs.cancel.*", bodies=(receipt, status)) as seen:
            told, ids = [], []
            for _ in range(25):
                # The forger's own answer may be the first to this one, which it saw.
                with suppress(JobService.Error):
                    await operator.connection.ask(NAMES.cancel("normal-7"), timeout=0.1, seen=True)
                told.append((await operator.status(job_id)).status)
                ids.append(await operator.submit("echo", 1))
        assert seen
        assert told == ["queued"] * 25
        assert "normal-parallel-7" not in ids
        assert {(await operator.status(each)).status for each in ids} == {"queued"}


@pytest.mark.parametrize("forger", ["worker", "root"])
async def test_who_sees_a_write_to_a_state_answers_no_question_and_gives_no_receipt(
    as_user: Settings, forger: str
) -> None:
    url = as_user("operator").nats_url
    receipt = json.dumps({"stream": "JOBS_NORMAL_PARALLEL", "seq": 7}).encode()
    async with JobService(as_user("operator")) as operator, plain_client(url, forger) as client:
        waits = await operator.submit("echo", 1)
        async with forging(client, "$KV.jobs.*", bodies=(receipt,)) as seen:
            ids = []
            for _ in range(12):
                with suppress(JobService.Error):  # of this write alone the forger may take the server's part
                    await operator.cancel(await operator.submit("echo", 1), timeout=0.1)
                ids.append(await operator.submit("echo", 1))
                assert (await operator.status(waits)).status == "queued"
        assert seen
        assert "normal-parallel-7" not in ids


async def test_a_worker_answers_what_it_is_asked_and_cannot_ask_itself(as_user: Settings) -> None:
    """`allow_responses` would let it: who sends himself a message may then publish on the reply subject in it."""
    url = as_user("operator").nats_url
    async with plain_client(url, "operator") as operator, wire(url, "worker") as worker:
        await worker.listen("jobs.cancel.*")
        await worker.listen("$KV.jobs.*")
        inbox = "_INBOX.operator.seen.a.b"
        subscription = await operator.subscribe(inbox)
        await operator.publish("jobs.cancel.normal-1", b"", reply=inbox)
        await operator.flush()

        async def is_asked() -> bool:
            return inbox in await worker.heard()

        await eventually(is_asked)
        await worker.publish(inbox, b"here", reply="")
        assert (await subscription.next_msg(timeout=5)).data == b"here"
        for reply in ("$JS.API.STREAM.DELETE.JOBS_LOW", "_INBOX.operator.a.b", "jobs.cancel.normal-1"):
            await worker.publish("$KV.jobs.normal-1", b"1", reply=reply)
            assert await worker.is_refused(reply)


async def test_the_service_answers_across_accounts_and_nobody_within_another(as_user: Settings) -> None:
    """It hears requests from other accounts, and may publish on no inbox of theirs."""
    config = as_user("service")
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    async with (
        plain_client(config.nats_url, "operator") as operator,
        plain_client(config.nats_url, "service") as forger,
    ):
        replies: list[str] = []

        async def answer(message: Msg) -> None:
            replies.append(message.reply)
            await forger.publish(message.reply, b"an answer")

        await forger.subscribe("jobs.rpc.status", cb=answer)
        await forger.flush()
        assert (await operator.request("jobs.rpc.status", b"{}", timeout=5)).data == b"an answer"
        assert [reply.partition(".")[0] for reply in replies] == ["_R_"]
        await operator.subscribe("_INBOX.operator.>", cb=hear)
        for subject in ("_INBOX.operator.x", "_INBOX.operator.seen.x.y", "_R_.x.y"):
            await forger.publish(subject, b"forged")
        await forger.flush()
        await operator.flush()
        assert heard == []
