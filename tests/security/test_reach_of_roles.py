"""What somebody with the rights of a role can make the server do to streams of others that share the account.

Nobody is to share it, says docs/security.md: these tests put a stream beside those of the namespace to see who reaches it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NoAnswer
from nats.js.api import StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from secured import api, plain_client, wire

from facts import eventually
from jsjobs import JobService

Settings = Callable[..., JobService.Config]
DELETE = "$JS.API.STREAM.DELETE.OTHERS"
FORGED = "forged.by.the.server"
NEXT = "$JS.API.CONSUMER.MSG.NEXT.JOBS_LOW_PARALLEL.low-parallel-"


async def try_api(client: Client, endpoint: str, body: object = None) -> dict[str, Any]:
    """The server's answer; none where the client lacks the right to ask."""
    try:
        return await api(client, endpoint, body, timeout=0.5)
    except (NoAnswer, NoRespondersError):
        return {}


async def republish(client: Client, js: JetStreamContext) -> None:
    """Have what a queue takes published as requests to the server."""
    config = (await try_api(client, "STREAM.INFO.JOBS_LOW")).get("config", {})
    into = {"src": "jobs.work.low.1x1.0.>", "dest": "$JS.API.STREAM.DELETE.>"}
    await try_api(client, "STREAM.UPDATE.JOBS_LOW", {**config, "republish": into})
    await js.publish("jobs.low.e.OTHERS", b"")


async def copy(client: Client, js: JetStreamContext) -> None:
    """Have a queue take what another stream holds."""
    config = (await try_api(client, "STREAM.INFO.JOBS_LOW")).get("config", {"sources": []})
    await try_api(client, "STREAM.UPDATE.JOBS_LOW", {**config, "sources": [*config["sources"], {"name": "OTHERS"}]})


async def answer(client: Client, js: JetStreamContext) -> None:
    """Write what an entry says, then read it with a request to the server as the reply subject."""
    with suppress(NoAnswer):
        await client.request("$KV.jobs.normal-1", b"", timeout=0.5)
    await client.publish("$JS.API.DIRECT.GET.KV_jobs.$KV.jobs.normal-1", b"", reply=DELETE)
    await client.publish("$JS.API.DIRECT.GET.KV_jobs.$KV.jobs.normal-1", b"", reply=FORGED)


async def deliver(client: Client, js: JetStreamContext) -> None:
    """Have consumers deliver to the server's API, and to a stream of others."""
    consumers = {
        "JOBS_LOW": ("low-1x1-0", "low-9x1-0"),
        "JOBS_DEAD": ("router", "spy"),
        "JOBS_SCHEDULE": ("source-low", "spy"),
        "KV_jobs": ("spy",),
    }
    for subject in (DELETE, "others.forged"):
        for stream, names in consumers.items():
            for name in names:
                config = {"name": name, "durable_name": name, "deliver_subject": subject, "ack_policy": "explicit"}
                endpoint = f"CONSUMER.DURABLE.CREATE.{stream}.{name}"
                await try_api(client, endpoint, {"stream_name": stream, "config": config})
    for subject in ("jobs.low.e.t", "jobs.dead.x"):
        await js.publish(subject, b"")


async def ask(client: Client, js: JetStreamContext) -> None:
    """Ask for jobs of a parallel lane with a request to the server as the reply subject: by a job, or by its "none"."""
    await js.publish("jobs.parallel.low.-.OTHERS", b"")
    for reply in (FORGED, DELETE):
        for number in range(4):
            await client.publish(f"{NEXT}{number}", b'{"batch": 1, "no_wait": true}', reply=reply)


ATTACKS = {each.__name__: each for each in (republish, copy, answer, deliver, ask)}
BY_ANSWERS = {"answer", "ask"}


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[tuple[JetStreamContext, list[str]]]:
    """A stream of another application in the account, and what a client of that hears which the server published."""
    forged: list[str] = []

    async def hear(message: object) -> None:
        forged.append(message.subject)

    async with plain_client(url, "root") as root:
        js = root.jetstream()
        await js.add_stream(StreamConfig(name="OTHERS", subjects=["others.*"]))
        for number in range(5):
            await js.publish("others.secret", b"%d" % number)
        await root.subscribe(FORGED, cb=hear)
        yield js, forged


async def is_untouched(js: JetStreamContext) -> bool:
    try:
        others = (await js.stream_info("OTHERS")).state.messages
    except NotFoundError:
        return False
    queue = await js.stream_info("JOBS_LOW", subjects_filter="others.>")
    return others == 5 and not queue.state.subjects


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("user", ["router", "service", "publisher", "viewer"])
async def test_roles_outside_the_account_reach_no_stream_of_others(as_user: Settings, user: str, attack: str) -> None:
    url = as_user("operator").nats_url
    async with beside(url) as (js, forged), plain_client(url, user) as client:
        await ATTACKS[attack](client, js)
        await client.flush()
        # Whatever was set going has been done once the server has answered this to each of them.
        for _ in range(3):
            await js.publish("jobs.high.e.t", b"")
            await asyncio.sleep(0.1)
        assert await is_untouched(js)
        assert forged == []


@pytest.mark.parametrize("attack", ["republish", "copy", "answer"])
async def test_an_operator_is_administrator_of_all_streams_in_the_account(as_user: Settings, attack: str) -> None:
    """Hence the account of the namespace holds nothing else."""
    url = as_user("operator").nats_url
    async with beside(url) as (js, _), plain_client(url, "operator") as client:
        await ATTACKS[attack](client, js)

        async def is_reached() -> bool:
            return not await is_untouched(js)

        await eventually(is_reached)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_worker_reaches_them_by_the_servers_answers_alone(as_user: Settings, attack: str) -> None:
    url = as_user("operator").nats_url
    async with beside(url) as (js, forged), plain_client(url, "worker") as client:
        await ATTACKS[attack](client, js)
        if attack in BY_ANSWERS:
            await eventually(lambda: forged)
        assert await is_untouched(js) is (attack not in BY_ANSWERS)


async def test_a_worker_has_the_server_publish_where_it_may_not_publish_itself(as_user: Settings) -> None:
    """Which is why a worker is trusted with the whole account. The job itself comes back, and runs."""
    url, topology, others = as_user("operator").nats_url, "$KV.jobs.topology.low", "others.stored"
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(as_user("operator")) as operator,
        beside(url) as (js, _),
        plain_client(url, "worker") as hostile,
        wire(url, "worker") as plain,
    ):
        assert await plain.is_refused(topology)
        assert await plain.is_refused(others)
        job = await operator.submit("echo", 1, priority="low")
        for number in range(4):
            await hostile.publish(f"{NEXT}{number}", b'{"batch": 1, "no_wait": true}', reply=others)
            await hostile.publish(f"{NEXT}{number}", b'{"batch": 1, "no_wait": true}', reply=topology)

        async def is_written() -> bool:
            """The job in one stream, under the subject that it has in its own; in the other that there is no more."""
            in_others = (await js.stream_info("OTHERS", subjects_filter="jobs.lane.>")).state.subjects
            return bool(in_others) and not (await js.get_last_msg("KV_jobs", topology)).data

        await eventually(is_written)
        async with worker, worker.worker():
            assert await operator.result(job, timeout=20) == 1


@pytest.mark.parametrize(("subject", "who"), [("jobs.deliver.high.1x3.0", "worker"), (DELETE, "root")])
async def test_a_consumer_delivers_to_clients_that_listen_and_is_no_request_to_the_server(
    as_user: Settings, subject: str, who: str
) -> None:
    """A router may make consumers, and say to which subject they deliver; a reset alone the server takes from there."""
    url = as_user("operator").nats_url
    heard: list[str] = []

    async def hear(message: object) -> None:
        heard.append(message.subject)

    async with beside(url) as (js, _), plain_client(url, who) as listener, plain_client(url, "router") as router:
        await listener.subscribe(subject, cb=hear)
        await listener.flush()
        await js.delete_consumer("JOBS_LOW", "low-1x1-0")
        config = {"durable_name": "low-1x1-0", "deliver_subject": subject, "ack_policy": "explicit"}
        body = {"stream_name": "JOBS_LOW", "config": {**config, "name": "low-1x1-0"}}
        assert "error" not in await try_api(router, "CONSUMER.DURABLE.CREATE.JOBS_LOW.low-1x1-0", body)
        await js.publish("jobs.low.e.t", b"")
        await eventually(lambda: heard)
        assert await is_untouched(js)


@pytest.mark.parametrize("user", ["router", "service"])
async def test_who_may_write_states_may_delete_jobs_and_empty_the_bucket(as_user: Settings, user: str) -> None:
    """In an account of its own too."""
    url = as_user("operator").nats_url
    async with beside(url) as (js, _), plain_client(url, user) as client:
        job = await js.publish("jobs.low.e.t", b"")
        assert (await try_api(client, "STREAM.MSG.DELETE.JOBS_LOW", {"seq": job.seq}))["success"]
        assert (await js.stream_info("KV_jobs")).state.messages > 1
        await client.request("$KV.jobs.normal-1", b"1", headers={"Nats-Rollup": "all"})
        assert (await js.stream_info("KV_jobs")).state.messages == 1
