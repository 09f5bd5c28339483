"""A replay runs once, whoever asks for it, however often, and wherever it crashes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.headers import GIVEN_ID
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import Schedules
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.errors import ReplayUnfinished


class Deployment:
    """A service whose handler `heal` fails until it is healed, and counts its runs by job."""

    def __init__(self, jobs: JobService) -> None:
        self.jobs = jobs
        self.healed = False
        self.runs: Counter[str] = Counter()
        self.contexts: dict[str, JobService.Context] = {}

        @jobs.handler("heal", retry=JobService.Retry(initial=0.01))
        async def heal(payload: int, ctx: JobService.Context) -> int:
            if not self.healed:
                raise JobService.Error.from_validation("not healed")
            self.runs[ctx.job_id] += 1
            self.contexts[ctx.job_id] = ctx
            return payload

    async def dead(self, payload: int = 1, **options: str) -> DeadLetter:
        self.healed = False
        job_id = await self.jobs.submit("heal", payload, **options)
        letter = await eventually(lambda: self.jobs.dlq.find(job_id))
        self.healed = True
        return letter


@pytest.fixture
async def deployment(jobs: JobService) -> AsyncIterator[Deployment]:
    deployment = Deployment(jobs)
    async with jobs.worker(), jobs.router():
        yield deployment


async def is_drained(plain: Client, namespace: str) -> bool:
    streams = [f"{namespace.upper()}_{name}" for name in ("CRITICAL", "HIGH", "NORMAL", "LOW")]
    return all([(await plain.jetstream().stream_info(stream)).state.messages == 0 for stream in streams])


async def test_ten_operators_at_once_replay_once(deployment: Deployment, plain: Client) -> None:
    letter = await deployment.dead(7)
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(JobService(deployment.jobs.config)) for _ in range(10)]
        outcomes = await asyncio.gather(*(other.replay(str(letter.id)) for other in others), return_exceptions=True)
    ids = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert ids == {f"replay-1-{letter.id}"}
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(e, JobService.Error) and "already replayed" in e.message for e in refused), refused
    assert await deployment.jobs.result(ids.pop()) == 7
    await eventually(lambda: is_drained(plain, deployment.jobs.config.namespace))
    assert deployment.runs == {f"replay-1-{letter.id}": 1}


@pytest.mark.parametrize("published", [0, 1, 2])
async def test_a_replay_that_crashed_is_finished_by_the_next(
    deployment: Deployment, plain: Client, published: int
) -> None:
    jobs = deployment.jobs
    letter = await deployment.dead(8)
    given = await jobs.dlq.claim_replay(letter.id)
    schedules = Schedules(jobs.connection, Names(jobs.config.namespace))
    for _ in range(published):
        await schedules.hand_over(f"{jobs.config.namespace}.normal.e.heal".encode(), {GIVEN_ID: given}, b"8")
        assert await jobs.result(given) == 8
    assert (await jobs.dlq.find(str(letter.id))).replayed_at is None
    assert await jobs.replay(str(letter.id)) == given
    assert await jobs.result(given) == 8
    await eventually(lambda: is_drained(plain, jobs.config.namespace))
    assert deployment.runs == {given: 1}
    assert (await jobs.dlq.find(str(letter.id))).replayed_job_id == given
    assert (await jobs.dlq.find(str(letter.id))).replayed_at is not None


async def test_an_edit_between_the_find_and_the_claim_of_a_replay_is_what_runs(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = await deployment.dead(1)
    claim = DeadLetters.claim_replay

    async def claiming(letters: DeadLetters, letter_id: UUID, **options: Any) -> str:
        await deployment.jobs.dlq.edit(letter_id, b"2")
        given = await claim(letters, letter_id, **options)
        with pytest.raises(ReplayUnfinished):
            await deployment.jobs.dlq.edit(letter_id, b"3")
        return given

    monkeypatch.setattr(DeadLetters, "claim_replay", claiming)
    assert await deployment.jobs.result(await deployment.jobs.replay(str(letter.id))) == 2


async def test_a_second_replay_is_refused_unless_forced(deployment: Deployment) -> None:
    jobs = deployment.jobs
    letter = await deployment.dead(9, entity="customer-42")
    assert await jobs.result(await jobs.replay(letter.original_job_id)) == 9
    with pytest.raises(JobService.Error, match="already replayed") as refused:
        await jobs.replay(letter.original_job_id)
    assert refused.value.reason == "Validation"
    again = await jobs.replay(letter.original_job_id, force=True, priority="critical")
    assert again == f"replay-2-{letter.id}"
    assert await jobs.result(again) == 9
    assert deployment.runs == {f"replay-1-{letter.id}": 1, again: 1}
    assert (deployment.contexts[again].priority, deployment.contexts[again].entity) == ("critical", "customer-42")
    assert (await jobs.status(again)).priority == "critical"
    with pytest.raises(JobService.Error) as unknown:
        await jobs.replay("critical-17")
    assert unknown.value.reason == "NotFound"


async def test_a_job_with_hostile_headers_is_replayed_with_what_can_be_sent(
    deployment: Deployment, plain: Client
) -> None:
    jobs, subject = deployment.jobs, f"{deployment.jobs.config.namespace}.high.e.heal"
    block = (
        b"NATS/1.0\r\nJsjobs-Tenant: acme\r\njsjobs-tenant: second\r\nJsjobs-Entity: \xc3\xa9 * > .\r\nNats-Msg-Id: once\r\n"
        b"Jsjobs-Max-Attempts: 7\r\nCustom: \xff\xfe\r\nother: a\x00b\r\n\r\n"
    )
    receipt = await jobs.connection.ask(subject.encode(), b"10", header=block)
    assert b'"seq"' in receipt.data
    letter = await eventually(lambda: the_only_letter(jobs))
    assert (letter.app_id, letter.entity) == ("acme", "é * > .")
    deployment.healed = True
    new_id = await jobs.replay(str(letter.id))
    assert await jobs.result(new_id) == 10
    context = deployment.contexts[new_id]
    assert (context.tenant_id, context.entity) == ("acme", "é * > .")
    status = await jobs.status(new_id)
    assert (status.max_attempts, status.tenant, status.history[0].status) == (7, "acme", "queued")


async def the_only_letter(jobs: JobService) -> DeadLetter:
    [letter] = await jobs.dlq.list()
    return letter


async def test_a_job_that_died_of_a_header_is_replayed_without_it(deployment: Deployment) -> None:
    jobs = deployment.jobs
    block = b"NATS/1.0\r\nJsjobs-Max-Attempts: \xc2\xb2\r\nJsjobs-Timeout: nan\r\nJsjobs-Tenant: acme\r\nX: y\r\n\r\n"
    await jobs.connection.ask(f"{jobs.config.namespace}.high.e.heal".encode(), b"10", header=block)
    letter = await eventually(lambda: the_only_letter(jobs))
    assert letter.error_reason == "Validation"
    deployment.healed = True
    new_id = await jobs.replay(str(letter.id))
    assert await jobs.result(new_id) == 10
    assert (await jobs.status(new_id)).tenant == deployment.contexts[new_id].tenant_id
    assert (await jobs.dlq.find(str(letter.id))).replayed_at is not None


@pytest.mark.parametrize("job_type", [b"a\x0bb", "aüb".encode()])
async def test_a_job_that_cannot_be_published_again_can_still_be_discarded(
    deployment: Deployment, job_type: bytes
) -> None:
    jobs = deployment.jobs
    await jobs.connection.ask(b"%b.high.e.%b" % (jobs.config.namespace.encode(), job_type), b"1")
    letter = await eventually(lambda: the_only_letter(jobs))
    with pytest.raises(JobService.Error) as refused:
        await jobs.replay(str(letter.id))
    assert refused.value.reason == "Validation"
    assert await jobs.dlq.discard(letter.id)


async def test_copies_of_a_given_id_run_once(deployment: Deployment, plain: Client) -> None:
    jobs, js = deployment.jobs, plain.jetstream()
    deployment.healed = True
    copies = [("high", "a"), ("normal", "b"), ("critical", "c"), ("low", "d"), ("normal", "e"), ("high", "a")]
    for priority, entity in copies:
        headers = {"Jsjobs-Id": "replay-1-x"}
        await js.publish(f"{jobs.config.namespace}.due.{priority}.{entity}.heal", b"11", headers=headers)
    assert await eventually(lambda: jobs.result("replay-1-x")) == 11
    await eventually(lambda: is_drained(plain, jobs.config.namespace))
    assert deployment.runs == {"replay-1-x": 1}


async def test_an_id_of_another_form_is_refused(deployment: Deployment, plain: Client) -> None:
    jobs = deployment.jobs
    deployment.healed = True
    sequences = {}
    for bad in ("critical-17", "topology.normal", "at-", "at-*", "at-" + "x" * 101, "REPLAY-1", "at-a.b"):
        headers = {"Jsjobs-Id": bad}
        ack = await plain.jetstream().publish(f"{jobs.config.namespace}.high.e.heal", b"1", headers=headers)
        sequences[f"high-{ack.seq}"] = bad

    async def all_rows() -> bool:
        return len(await jobs.dlq.list()) == len(sequences)

    await eventually(all_rows)
    for letter in await jobs.dlq.list():
        assert letter.error_reason == "Validation"
        assert "Jsjobs-Id" in letter.error_history[0]["error"]
        assert dict(letter.headers)["Jsjobs-Id"] == sequences.pop(letter.original_job_id)
    assert not sequences
    assert not deployment.runs


async def test_a_job_too_large_to_carry_a_replay_s_id_is_refused_unclaimed(jobs: JobService, plain: Client) -> None:
    body = b'"%b"' % (b"x" * (896 * 1024 - 2))
    receipt = await plain.jetstream().publish(f"{jobs.config.namespace}.low.e.nobody", body)
    async with jobs.worker(), jobs.router():
        letter = await eventually(lambda: jobs.dlq.find(f"low-{receipt.seq}"))
        with pytest.raises(JobService.Error, match="too large to carry the id of a replay"):
            await jobs.replay(str(letter.id))
        assert await jobs.dlq.discard(letter.id)
