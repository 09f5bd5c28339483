"""What one tenant or publisher does, with the rights that it has, keeps the others from nothing."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from secured import plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.schedules.delayed import digest
from jsjobs.rpc import Rpc

Settings = Callable[..., JobService.Config]
OWN = "jobs.rpc.tenant.acme.submit"
LARGE = "x" * 850 * 1024


@asynccontextmanager
async def served(config: JobService.Config) -> AsyncIterator[Rpc]:
    async with JobService(config) as jobs, Rpc(jobs) as rpc:
        yield rpc


async def submit(client: Client, subject: str = OWN, **job: object) -> Msg:
    return await client.request(subject, json.dumps({"type": "echo", **job}).encode(), timeout=20)


def refusal(answer: Msg) -> tuple[str, str]:
    """Code and text of an answer; empty where it is none."""
    headers = answer.headers or {}
    return headers.get("Nats-Service-Error-Code", ""), headers.get("Nats-Service-Error", "")


async def test_delayed_jobs_of_a_tenant_are_bounded_and_others_go_on(as_user: Settings) -> None:
    config = as_user("service", tenant_delayed_bytes=8 * 2**20)
    async with (
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "publisher") as publisher,
        plain_client(config.nats_url, "operator") as operator,
    ):
        async with served(config):
            answers = await asyncio.gather(*(submit(acme, payload=LARGE, delay=1e6) for _ in range(12)))
        refused = [refusal(answer) for answer in answers if answer.headers]
        assert len(refused) == 12 - 9
        assert {code for code, _ in refused} == {"429"}
        assert "JSJOBS_TENANT_DELAYED_BYTES" in refused[0][1]
        assert "nothing was queued; the first of them leave at 20" in refused[0][1]
        # Another instance, as one that was started again, knows it too.
        async with served(config):
            assert refusal(await submit(acme, payload=LARGE, delay=5))[0] == "429"
            assert refusal(await submit(acme, payload=LARGE)) == ("", ""), "what is not delayed has its queue's bound"
            for client, subject in ((publisher, "jobs.rpc.submit"), (operator, "jobs.rpc.tenant.other.submit")):
                assert refusal(await submit(client, subject, payload=LARGE, delay=1e6)) == ("", "")
            stored = await operator.jetstream(prefix="$JS.API").stream_info("JOBS_SCHEDULE")
        assert stored.state.messages == 9 + 2


async def test_what_is_due_counts_until_its_queue_has_it(as_user: Settings) -> None:
    config = as_user("service", tenant_delayed_jobs=3)
    ledger = f"$KV.jobs.quota.{digest('acme')}"
    past = int(time.time()) - 60
    async with plain_client(config.nats_url, "acme") as acme, plain_client(config.nats_url, "root") as root:
        await root.jetstream().publish(ledger, json.dumps({past: [3, 10]}).encode())
        # A job that is due stays in the schedule stream while its queue is full, as this one, which no queue takes.
        stuck = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "jobs.due.unfit"}
        await root.jetstream().publish("jobs.at.stuck", b"1", headers=stuck)

        async def fired() -> bool:
            return (await root.jetstream().stream_info("JOBS_SCHEDULE", subjects_filter="jobs.due.>")).state.subjects

        await eventually(fired)
        async with served(config):
            await root.jetstream().publish(ledger, json.dumps({int(time.time()) + 60: [3, 10]}).encode())
            assert refusal(await submit(acme, delay=60))[0] == "429"
        await root.jetstream().publish(ledger, json.dumps({past: [3, 10]}).encode())
        async with served(config):
            assert refusal(await submit(acme, delay=60)) == ("", ""), "all that was due by then had left"


async def test_a_debounced_job_counts_once(as_user: Settings) -> None:
    config = as_user("service", tenant_delayed_jobs=3)
    async with plain_client(config.nats_url, "acme") as acme, served(config):
        for number in range(6):
            assert refusal(await submit(acme, payload=number, delay=600, debounce_key="k")) == ("", "")
        for number in range(3):
            assert refusal(await submit(acme, payload=number, delay=600, dedupe_key="k")) == ("", "")
        assert refusal(await submit(acme, delay=600)) == ("", "")
        assert refusal(await submit(acme, delay=600))[0] == "429"


async def test_a_delayed_job_that_was_cancelled_still_counts(as_user: Settings) -> None:
    config = as_user("service", tenant_delayed_jobs=2)
    async with plain_client(config.nats_url, "acme") as acme, JobService(config) as jobs, Rpc(jobs):
        first = json.loads((await submit(acme, delay=600)).data)["job_id"]
        assert (await jobs.cancel(first)).status == "cancelled"
        assert refusal(await submit(acme, delay=600)) == ("", "")
        assert refusal(await submit(acme, delay=600))[0] == "429"


async def test_the_types_of_a_tenant_are_bounded(as_user: Settings) -> None:
    config = as_user("service", tenant_types=20)
    async with plain_client(config.nats_url, "acme") as acme, served(config):
        answers = await asyncio.gather(*(submit(acme, type=f"t{number}") for number in range(60)))
        refused = [refusal(answer) for answer in answers if answer.headers]
        assert len(refused) == 40
        assert refused[0][0] == "429"
        assert "JSJOBS_TENANT_TYPES" in refused[0][1]
        taken = next(number for number, answer in enumerate(answers) if not answer.headers)
        assert refusal(await submit(acme, type=f"t{taken}")) == ("", "")


async def test_a_flood_of_submits_is_told_and_cuts_nobody(
    as_user: Settings, secured_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jsjobs")
    config = as_user("service", queue_bytes=64 * 2**20)
    body = json.dumps({"type": "echo", "payload": LARGE}).encode()
    async with (
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "operator") as operator,
        plain_client(config.nats_url, "publisher") as publisher,
        served(config),
    ):
        job_id = json.loads((await submit(publisher, "jobs.rpc.submit")).data)["job_id"]
        flood = [asyncio.ensure_future(acme.request(OWN, body, timeout=60)) for _ in range(200)]
        asked = 0
        while not all(request.done() for request in flood):
            status = await operator.request("jobs.rpc.status", json.dumps({"job_id": job_id}).encode(), timeout=10)
            assert json.loads(status.data)["status"] == "queued"
            asked += 1
        told = [refusal(answer) for answer in await asyncio.gather(*flood)]
        # What is not refused as busy is in the queue, which 64 MiB fill.
        assert {code for code, _ in told} <= {"", "503"}
        busy = [text for _, text in told if "busy" in text]
        assert busy
        assert f"requests to {OWN} are in progress here, try again" in busy[0]
        assert asked > 3
        assert refusal(await submit(operator, "jobs.rpc.tenant.other.submit", type="after", priority="low")) == ("", "")
    assert "is lost" not in caplog.text
    assert "Slow Consumer" not in secured_server.log.read_text()


@pytest.mark.parametrize("delay", [None, 86_400])
async def test_submits_of_many_small_values_hold_up_nobody(as_user: Settings, delay: int | None) -> None:
    """As many of 840 KB as one tenant may have under way, each of 280,000 values."""
    config = as_user("service", queue_bytes=64 * 2**20)
    head = b"" if delay is None else b'"delay":%d,' % delay
    body = b'{"type":"echo","priority":"low",' + head + b'"payload":[' + b",".join([b"[]"] * 280_000) + b"]}"
    async with (
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "operator") as operator,
        served(config),
    ):
        job_id = json.loads((await submit(operator, "jobs.rpc.submit")).data)["job_id"]
        began, slowest = time.process_time(), 0.0
        flood = [asyncio.ensure_future(acme.request(OWN, body, timeout=60)) for _ in range(19)]
        while not all(request.done() for request in flood):
            asked = time.monotonic()
            await operator.request("jobs.rpc.status", json.dumps({"job_id": job_id}).encode(), timeout=10)
            slowest = max(slowest, time.monotonic() - asked)
        answers = await asyncio.gather(*flood)
        cost = time.process_time() - began
        assert {refusal(answer) for answer in answers} == {("", "")}
        assert cost < 10, "29 s where each value was looked at"
        assert slowest < 3


async def test_what_comes_on_everybodys_subject_counts_together_as_one_more_tenants(as_user: Settings) -> None:
    config = as_user("service", tenant_delayed_jobs=4)
    async with (
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "publisher") as publisher,
        served(config),
    ):
        options = {"delay": 600, "debounce_key": "k"}
        for tenant in ("acme", "other", None, "acme", "other", None):
            answer = await submit(publisher, "jobs.rpc.submit", **options, **({"tenant": tenant} if tenant else {}))
            assert refusal(answer) == ("", "")
        assert refusal(await submit(publisher, "jobs.rpc.submit", delay=600, tenant="more")) == ("", "")
        assert refusal(await submit(publisher, "jobs.rpc.submit", delay=600, tenant="another"))[0] == "429"
        for _ in range(4):
            assert refusal(await submit(acme, delay=600)) == ("", ""), "the tenant's own subject has its own room"


async def open_batches(client: Client, count: int = 50) -> None:
    """Begin lists, and leave them open: each is one message that says that more will come."""
    for number in range(count):
        headers = {"Nats-Batch-Id": f"left-open-{number}", "Nats-Batch-Sequence": "1"}
        await client.publish("jobs.parallel.normal.-.echo", b"1", headers=headers)
    await client.flush()


async def test_lists_left_open_hold_up_the_others_for_a_moment(as_user: Settings) -> None:
    config = as_user("publisher")
    async with plain_client(config.nats_url, "publisher") as hostile, JobService(config) as jobs:
        await open_batches(hostile)
        assert len(await jobs.submit("echo", [1, 2, 3])) == 3


@pytest.mark.parametrize("items", [[1], [1, 2, 3]])
@pytest.mark.parametrize("delay", [None, 3600])
async def test_a_list_that_is_refused_is_not_said_to_be_queued_perhaps(
    jobs: JobService, plain: Client, items: list[int], delay: float | None
) -> None:
    """On a server with its own defaults, which keeps open lists for ten seconds."""
    name = jobs.config.namespace
    subject = f"{name}.parallel.normal.-.echo" if delay is None else f"{name}.at.at-x"
    quick = JobService(jobs.config.model_copy(update={"timeout": 1.0}))
    for number in range(50):
        headers = {"Nats-Batch-Id": f"left-open-{number}", "Nats-Batch-Sequence": "1"}
        await plain.publish(subject, b"1", headers=headers)
    await plain.flush()
    key = "k" if delay is not None and len(items) == 1 else None
    async with quick:
        with pytest.raises(JobService.Error, match=r"busy: too many batches.* nothing was queued, try again") as raised:
            await quick.submit("echo", items, delay=delay, dedupe_key=key)
    assert raised.value.reason == "RunnerUnavailable"
    assert "may or may not" not in raised.value.message
    js = plain.jetstream()
    for stream in ("NORMAL_PARALLEL", "SCHEDULE"):
        assert (await js.stream_info(f"{name.upper()}_{stream}")).state.messages == 0


@pytest.mark.parametrize(
    ("user", "subject"), [("viewer", "$JS.API.STREAM.INFO.JOBS_LOW"), ("publisher", "jobs.rpc.submit")]
)
async def test_requests_are_not_counted(as_user: Settings, user: str, subject: str) -> None:
    """Thousands at once of one user are all answered; jobs run meanwhile, as fast as the server then lets them."""
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(as_user("operator")) as operator,
        plain_client(as_user("operator").nats_url, user) as floods,
        served(as_user("service")),
        worker,
        worker.worker(),
    ):
        flood = [asyncio.ensure_future(floods.request(subject, b"", timeout=60)) for _ in range(3000)]
        assert await operator.result(await operator.submit("echo", 1), timeout=60) == 1
        answers = await asyncio.gather(*flood)
    assert {bool(answer.data or answer.headers) for answer in answers} == {True}


async def test_the_account_of_the_namespace_is_bounded(as_user: Settings) -> None:
    async with plain_client(as_user("operator").nats_url, "root") as root:
        limits = json.loads((await root.request("$JS.API.INFO")).data)["limits"]
        assert limits["max_storage"] == 20 * 2**30
        assert 0 < limits["max_streams"] <= 16
        assert 0 < limits["max_consumers"] <= 1000
        whole = {"name": "OTHERS", "subjects": ["others"], "max_bytes": 20 * 2**30}
        answer = json.loads((await root.request("$JS.API.STREAM.CREATE.OTHERS", json.dumps(whole).encode())).data)
        assert answer["error"]["err_code"] == 10047


async def test_a_made_up_letter_with_the_message_id_of_a_true_one_costs_it_nothing(as_user: Settings) -> None:
    """The server drops a second message of the same id, and acknowledges it: a letter has none."""
    worker = JobService(as_user("worker"))

    @worker.handler("dies")
    async def dies(_: object) -> None:
        raise JobService.Error.from_validation("it shall die")

    async with (
        JobService(as_user("operator")) as operator,
        plain_client(as_user("operator").nats_url, "worker") as hostile,
        JobService(as_user("router")) as router,
        worker,
    ):
        true = await operator.submit("dies", {"precious": "payload"}, priority="high")
        made_up = await hostile.request("jobs.dead.made-up", b"{}", headers={"Nats-Msg-Id": true}, timeout=5)
        assert "error" not in json.loads(made_up.data)
        async with router.router(), worker.worker():
            letter = await eventually(lambda: operator.dlq.find(true))
        assert letter.error_reason == "Validation"
        assert letter.payload_json == {"precious": "payload"}


async def test_a_true_letter_behind_many_forged_ones_waits_for_seconds(
    as_user: Settings, secured_server: NatsServer
) -> None:
    """A worker makes up 200 letters of jobs that did not die: each keeps one of 64 places for a second."""
    worker = JobService(as_user("worker"))

    @worker.handler("dies")
    async def dies(_: object) -> None:
        raise JobService.Error.from_validation("it shall die")

    async with (
        JobService(as_user("operator")) as operator,
        plain_client(secured_server.url, "worker") as hostile,
        plain_client(secured_server.url, "root") as root,
        worker,
        worker.worker(),
    ):
        for number in range(200):
            await hostile.publish(f"jobs.dead.normal-{10**15 + number}", b"{}")
        await hostile.flush()
        true = await operator.submit("dies", 1)

        async def all_are_there() -> bool:
            return (await root.jetstream().stream_info("JOBS_DEAD")).state.messages == 201

        await eventually(all_are_there)
        began = time.monotonic()
        async with JobService(as_user("router")) as router, router.router():
            letter = await eventually(lambda: operator.dlq.find(true))
        assert letter.error_reason == "Validation"
        assert time.monotonic() - began < 15
