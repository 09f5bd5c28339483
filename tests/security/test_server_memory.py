"""What users that are not trusted can make the server hold in memory."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NoAnswer
from secured import AUTH, apply, config_of, password, plain_client, secured, server_config, wire

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.rpc import Rpc

Settings = Callable[..., JobService.Config]
CONFIG = (AUTH / "server.conf").read_text()
PAGE = (AUTH.parents[1] / "docs" / "security.md").read_text()
UNTRUSTED = ("PUBLISHERS", "ACME", "VIEWERS")
WHOLE_ENTRY = b'{"last_by_subj":"$KV.jobs.large"}'
BOUND = 2 * 2**30
"""Bytes that the server took in these attacks, at most; without the limits it took 6 to 8 GB."""


def most_connections(account: str) -> int:
    found = re.search(
        rf"^  {account} {{.*?limits {{ max_connections: (\d+), max_subscriptions: \d+", CONFIG, re.MULTILINE | re.DOTALL
    )
    assert found, f"{account} has no limits"
    return int(found[1])


def test_what_may_wait_for_untrusted_users_is_what_the_page_says() -> None:
    [pending] = re.findall(r"^max_pending: (\d+)MB$", CONFIG, re.MULTILINE)
    assert f"{int(pending)} MB" in PAGE
    held = int(pending) * sum(most_connections(account) for account in UNTRUSTED)
    assert f"{held / 1000:.1f} GB" in PAGE
    for account in ("JOBS", "SERVICE", "ROUTERS"):
        assert f"`{account}` {most_connections(account)}" in PAGE


@contextmanager
def unread(server: NatsServer, user: str, subject: str) -> Iterator[socket.socket]:
    """A connection that reads nothing of what comes."""
    host, port = server.url.removeprefix("nats://").split(":")
    with closing(socket.socket()) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect((host, int(port)))
        made.settimeout(10)
        login = json.dumps({"user": user, "pass": password(user), "verbose": False, "headers": True})
        made.sendall(f"CONNECT {login}\r\n".encode())
        made.sendall(b"".join(b"SUB %b %d\r\n" % (subject.encode(), number) for number in range(1, 51)))
        yield made


def ask_for_much(connection: socket.socket, subject: bytes, body: bytes, reply: bytes) -> None:
    with suppress(OSError):  # it is cut
        for _ in range(60):
            connection.sendall(b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body))


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_viewers_that_do_not_read_are_cut_before_the_server_holds_much(
    as_user: Settings, secured_server: NatsServer
) -> None:
    """All connections that they may have, each of them with each answer fifty times."""
    process = psutil.Process(int((secured_server.home / "nats.pid").read_text()))
    url, peak = as_user("viewer").nats_url, 0
    async with plain_client(url, "root") as root:
        await root.jetstream().publish("$KV.jobs.large", b"x" * 900_000)
        opened = [unread(secured_server, "viewer", "_INBOX.viewer.all") for _ in range(most_connections("VIEWERS"))]
        sockets = [each.__enter__() for each in opened]
        ask = (b"$JS.API.STREAM.MSG.GET.KV_jobs", WHOLE_ENTRY, b"_INBOX.viewer.all")
        threads = [threading.Thread(target=ask_for_much, args=(each, *ask)) for each in sockets]
        for thread in threads:
            thread.start()

        def all_are_cut() -> bool:
            nonlocal peak
            peak = max(peak, process.memory_info().rss)
            return secured_server.log.read_text().count("Slow Consumer Detected") >= len(sockets)

        await eventually(all_are_cut, within=60)
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        for each in opened:
            each.__exit__(None, None, None)
        assert peak < BOUND
        assert (await root.jetstream().publish("jobs.normal.e.echo", b"1")).stream == "JOBS_NORMAL"


async def test_nobody_untrusted_may_ask_for_a_whole_stream(as_user: Settings) -> None:
    """The answers to one direct get wait in the server, whatever its limits are; the API gives one message."""
    url = as_user("viewer").nats_url
    for user in ("viewer", "publisher", "acme"):
        async with wire(url, user) as plain:
            for stream in ("KV_jobs", "JOBS_LOW", "JOBS_SCHEDULE", "JOBS_PROGRESS", "JOBS_DEAD"):
                assert await plain.is_refused(f"$JS.API.DIRECT.GET.{stream}")
    async with plain_client(url, "viewer") as viewer, plain_client(url, "root") as root:
        for number in range(3):
            await root.jetstream().publish(f"$KV.jobs.low-{number}", b"x")
        ask = {"seq": 1, "next_by_subj": "$KV.jobs.>", "batch": 100}
        answer = json.loads((await viewer.request("$JS.API.STREAM.MSG.GET.KV_jobs", json.dumps(ask).encode())).data)
        assert answer["error"]["code"] == 400


async def test_viewers_ask_for_the_names_of_no_jobs_but_of_types_in_queues(as_user: Settings) -> None:
    """With a filter the server lists each subject of a stream, while everybody else's requests wait."""
    url, every = as_user("viewer").nats_url, b'{"subjects_filter":">"}'
    async with wire(url, "viewer") as plain:
        for stream in ("KV_jobs", "JOBS_PROGRESS", "JOBS_SCHEDULE"):
            assert await plain.is_refused(f"$JS.API.STREAM.INFO.{stream}")
    async with (
        plain_client(url, "publisher") as publisher,
        plain_client(url, "viewer") as viewer,
        plain_client(url, "root") as root,
    ):
        for number in range(300):
            await publisher.request(f"jobs.low.entity-{number}.t{number % 100}", b"1")
        info = json.loads((await viewer.request("$JS.API.STREAM.INFO.JOBS_LOW", every)).data)
        assert info["state"]["messages"] == 300
        assert 100 <= len(info["state"]["subjects"]) <= 300
        await root.jetstream().publish("jobs.dead.low-1", b"{}")
        letters = json.loads((await viewer.request("$JS.API.STREAM.INFO.JOBS_DEAD", every)).data)
        assert letters["state"]["subjects"] == {"jobs.dead.low-1": 1}


async def test_a_publishers_long_message_ids_stay_in_memory_when_the_jobs_are_gone(
    as_user: Settings, secured_server: NatsServer
) -> None:
    """A tenant has none on its own subject: the service makes them, of keys that are bounded."""
    process = psutil.Process(int((secured_server.home / "nats.pid").read_text()))
    config = as_user("service")
    async with (
        plain_client(config.nats_url, "publisher") as publisher,
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "root") as root,
        JobService(config) as jobs,
        Rpc(jobs),
    ):
        before = process.memory_info().rss
        for number in range(2000):
            headers = {"Nats-Msg-Id": f"{number:06}" + "x" * 60_000}
            await publisher.publish("jobs.low.e.t", b"1", headers=headers)
            if number % 200 == 199:
                await publisher.request("jobs.low.e.t", b"1", timeout=30)
                await root.jetstream().purge_stream("JOBS_LOW")
        assert (await root.jetstream().stream_info("JOBS_LOW")).state.bytes == 0
        assert process.memory_info().rss - before > 60 * 2**20
        body = json.dumps({"type": "t", "dedupe_key": "x" * 257}).encode()
        refused = await acme.request("jobs.rpc.tenant.acme.submit", body, timeout=20)
        assert refused.headers["Nats-Service-Error-Code"] == "400"


async def test_an_account_has_no_more_connections_than_that(as_user: Settings, secured_server: NatsServer) -> None:
    opened = [unread(secured_server, "acme", "_INBOX.acme.x") for _ in range(most_connections("ACME"))]
    for each in opened:
        each.__enter__().sendall(b"PING\r\n")

    async def is_told_why() -> bool:
        with pytest.raises(JobService.Error) as refused:
            async with JobService(as_user("acme", timeout=2)):
                pass
        # The server closes at once what it has told: the word may be lost to that.
        return "maximum account active connections exceeded" in str(refused.value)

    await eventually(is_told_why)
    for each in opened:
        each.__exit__(None, None, None)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_worker_is_sent_a_large_job_of_each_of_many_shards(
    as_user: Settings, secured_server: NatsServer
) -> None:
    """All at once, as it subscribes: 36 of 850 KiB, which `max_pending` has room for."""
    config = as_user("operator", pools={"low": 36}, queue_bytes=256 * 2**20)
    worker = JobService(as_user("worker"))
    done: list[int] = []

    @worker.handler("large")
    async def large(payload: dict[str, object]) -> None:
        done.append(int(str(payload["number"])))

    async with JobService(config) as operator, worker:
        await TopologyReconciler(operator.connection, Names("jobs"), config).apply()
        for number in range(150):
            payload = {"number": number, "body": "x" * 850 * 1024}
            await operator.submit("large", payload, priority="low", entity=f"e{number}")
        async with worker.worker():
            await eventually(lambda: len(set(done)) == 150, within=120)
    assert "Slow Consumer" not in secured_server.log.read_text()


@pytest.mark.timeout(120)
async def test_submits_that_the_service_does_not_read_cost_their_connection(tmp_path: Path) -> None:
    """With a smaller `max_pending`, so that it takes less: the server cuts what carries the submits, and nothing else."""
    text = server_config()
    assert text.count("max_pending: 32MB") == 1
    with secured(tmp_path / "nats", text.replace("max_pending: 32MB", "max_pending: 2MB")) as server:
        await apply(config_of(server.url, "operator"))
        service = JobService(config_of(server.url, "service"))
        async with service, Rpc(service), plain_client(server.url, "operator") as operator:
            answer = await operator.request("jobs.rpc.tenant.other.submit", b'{"type": "echo"}', timeout=20)
            asked = json.dumps({"job_id": json.loads(answer.data)["job_id"]}).encode()
            with unread(server, "acme", "_INBOX.acme.x") as flood:
                body = b'{"type": "echo", "payload": "%b"}' % (b"x" * 850_000)
                # Nobody reads meanwhile: the service runs in this very thread.
                for _ in range(150):
                    flood.sendall(b"PUB jobs.rpc.tenant.acme.submit %d\r\n%b\r\n" % (len(body), body))
                    if "Slow Consumer Detected" in server.log.read_text():
                        break
            cut = server.log.read_text().count("Slow Consumer Detected")
            assert 0 < cut <= 8
            assert json.loads((await operator.request("jobs.rpc.status", asked, timeout=20)).data)["status"] == "queued"

            async def is_served_again() -> bool:
                with suppress(NoRespondersError, NoAnswer):
                    again = await operator.request("jobs.rpc.tenant.other.submit", b'{"type": "echo"}', timeout=5)
                    return not again.headers
                return False

            await eventually(is_served_again)
