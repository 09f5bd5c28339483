"""What the doctor says of servers, accounts and users."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from diagnosis import ills, texts, the_ill
from jsjobs import JobService
from jsjobs.doctor import Severity
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.account import look_at_servers
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from old_server import VERSION, old_server

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"
Make = Callable[..., JobService.Config]
SYSTEM = """
accounts {
  APP {
    jetstream: JETSTREAM
    users: [{user: app, password: pw}, {user: low, password: pw, permissions: {publish: PUBLISH}}]
    imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ"}}]
  }
  SYS {users: [], exports: [{service: "$SYS.REQ.SERVER.PING.JSZ", response: stream, accounts: [APP]}]}
}
system_account: SYS
"""


@asynccontextmanager
async def server_with(
    folder: Path, *, jetstream: str = "enabled", publish: str = '">"', more: str = ""
) -> AsyncIterator[str]:
    """A server with accounts and users; its address, with a place for the user."""
    config = SYSTEM.replace("JETSTREAM", jetstream).replace("PUBLISH", publish) + more
    with NatsServer(folder, config=config) as server:
        yield server.url.replace("nats://", "nats://USER:pw@")


async def applied(settings_of: Make, url: str, **given: object) -> JobService.Config:
    """Settings of a user who may do everything, whose streams exist."""
    config = settings_of(nats_url=url.replace("USER", "app"), **given)
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
    return config


@pytest.mark.parametrize("user", ["nobody", "app"])
async def test_a_server_that_cannot_be_used_is_one_finding_without_secrets(
    settings_of: Make, tmp_path: Path, user: str
) -> None:
    async with server_with(tmp_path) as url:
        there = settings_of(nats_url=url.replace("USER:pw", f"{user}:wrong-secret"))
        finding = await the_ill(there, "servers")
    away = await ills(there)
    assert finding.severity is away["servers"][0].severity is Severity.PROBLEM
    assert "authorization violation" in finding.what.lower()
    assert "Connect call failed" in away["servers"][0].what
    assert "NATS_URL" in finding.remedy
    assert set(away) == {"servers"}
    assert "secret" not in texts(away) + finding.what + finding.where


async def test_an_old_server_is_named(settings_of: Make) -> None:
    server = await asyncio.start_server(old_server, "127.0.0.1", 0)
    async with server:
        config = settings_of(nats_url=f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finding = await the_ill(config, "servers")
    assert finding.severity is Severity.PROBLEM
    assert VERSION in finding.what
    assert "upgrade every server" in finding.remedy


async def version_of(config: JobService.Config) -> str:
    async with connected(config) as connection:
        return connection.server_version


@pytest.mark.parametrize(
    ("version", "has_jetstream", "severity", "says"),
    [
        ("2.14.9", True, Severity.PROBLEM, "2.14.9 is too old"),
        ("2.99.0", True, Severity.WARNING, "several versions: 2.15."),
        (None, False, Severity.NOTE, "without JetStream"),
    ],
)
async def test_every_server_of_the_cluster_is_asked(
    config: JobService.Config, plain: Client, version: str | None, has_jetstream: bool, severity: Severity, says: str
) -> None:
    other = {"ver": version or await version_of(config), "name": "other", "jetstream": has_jetstream}

    async def answer(message: Msg) -> None:
        told = {"server": {**other, "time": datetime.now(UTC).isoformat()}}
        await plain.publish(message.reply, json.dumps(told).encode())

    await plain.subscribe("$SYS.REQ.ACCOUNT.PING.STATZ", cb=answer)
    await plain.flush()
    finding = await the_ill(config, "servers")
    assert (finding.severity, says in finding.what) == (severity, True), finding


async def test_servers_are_asked_once_for_all_that_they_tell_of_jetstream(
    config: JobService.Config, plain: Client
) -> None:
    asked = 0

    async def answer(message: Msg) -> None:
        nonlocal asked
        asked += 1
        settings = {"max_storage": 1000, "sync_interval": 120_000_000_000}
        told = {"config": settings, "storage": 990, "reserved_storage": 0}
        await plain.publish(message.reply, json.dumps({"server": {"name": "one"}, "data": told}).encode())

    await plain.subscribe("$SYS.REQ.SERVER.PING.JSZ", cb=answer)
    await plain.flush()
    found = await ills(config)
    assert any("990 of 1,000 bytes" in finding.what for finding in found["storage"])
    assert any("sync_interval is 120 s" in finding.what for finding in found["sync"])
    assert asked == 1


async def test_what_strangers_answer_in_the_place_of_servers_is_left_out(
    config: JobService.Config, plain: Client
) -> None:
    async def answer(message: Msg) -> None:
        for said in (
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"server": 1}',
            b'{"server": {"name": "x", "ver": 1, "time": "yesterday"}}',
        ):
            await plain.publish(message.reply, said)

    await plain.subscribe("$SYS.REQ.ACCOUNT.PING.STATZ", cb=answer)
    await plain.flush()
    async with connected(config) as connection:
        (server,) = await look_at_servers(connection)
        assert server.version == connection.server_version
    assert "servers" not in await ills(config)


@pytest.mark.parametrize(("off", "how"), [(timedelta(hours=1), "behind"), (-timedelta(hours=1), "ahead of")])
async def test_clocks_that_differ(config: JobService.Config, off: timedelta, how: str) -> None:
    finding = await the_ill(config, "clock", now=lambda: datetime.now(UTC) + off)
    assert finding.severity is Severity.WARNING
    assert f"s {how} this machine's" in finding.what
    assert 3590 < float(finding.what.split()[3].replace(",", "")) < 3610


async def test_clocks_that_differ_are_seen_by_who_may_not_ask_every_server(settings_of: Make, tmp_path: Path) -> None:
    unasked = '{allow: ">", deny: ["$SYS.REQ.ACCOUNT.PING.STATZ"]}'
    async with server_with(tmp_path / "a", publish=unasked) as url:
        config = await applied(settings_of, url)
        low = settings_of(nats_url=url.replace("USER", "low"), namespace=config.namespace)
        finding = await the_ill(low, "clock", now=lambda: datetime.now(UTC) - timedelta(minutes=1))
        assert finding.severity is Severity.WARNING
        assert "s ahead of this machine's" in finding.what
        assert "clock" not in await ills(low)
    nobody = '{allow: ">", deny: ["$SYS.REQ.ACCOUNT.PING.STATZ", "$JS.API.STREAM.INFO.>"]}'
    async with server_with(tmp_path / "b", publish=nobody) as url:
        finding = await the_ill(settings_of(nats_url=url.replace("USER", "low")), "clock")
        assert (finding.severity, finding.what) == (Severity.NOTE, "the servers' clocks cannot be asked")


async def test_an_account_without_jetstream(settings_of: Make, tmp_path: Path) -> None:
    async with server_with(tmp_path, jetstream="disabled") as url:
        found = await ills(settings_of(nats_url=url.replace("USER", "app")))
    (finding,) = found["limits"]
    assert finding.severity is Severity.PROBLEM
    assert "JetStream is not available" in finding.what
    assert "jetstream: enabled" in finding.remedy
    assert "declared" not in found


async def test_limits_of_the_account_that_are_near(settings_of: Make, tmp_path: Path) -> None:
    limits = "{max_file: 1800MB, max_streams: 12}"
    async with server_with(tmp_path, jetstream=limits) as url:
        found = await ills(await applied(settings_of, url))
    storage, streams = found["limits"]
    assert (storage.severity, streams.severity) == (Severity.WARNING, Severity.PROBLEM)
    assert "bytes of storage are used" in storage.what
    assert "12 of 12 streams" in streams.what
    assert "max_streams" in streams.remedy


async def test_a_small_max_payload(settings_of: Make, tmp_path: Path) -> None:
    async with server_with(tmp_path, more="max_payload: 512KB") as url:
        finding = await the_ill(await applied(settings_of, url), "max_payload")
    assert finding.severity is Severity.WARNING
    assert "524,288" in finding.what
    assert "`max_payload: 1048576`" in finding.remedy


@pytest.mark.parametrize(
    ("setting", "says"), [("", "sync_interval is 120 s"), ("jetstream {sync_interval: 10s}", "sync_interval is 10 s")]
)
async def test_sync_settings_that_an_account_may_see(
    settings_of: Make, tmp_path: Path, setting: str, says: str
) -> None:
    async with server_with(tmp_path, more=setting) as url:
        found = await ills(await applied(settings_of, url))
    sync, copies = found["sync"]
    assert copies.severity is sync.severity is Severity.NOTE
    assert "JSJOBS_REPLICAS=3" in copies.remedy
    assert says in sync.what
    assert "sync_interval: always" in sync.remedy


async def test_with_the_configuration_of_the_docs_all_is_on_disk_at_once_and_seen(
    settings_of: Make, tmp_path: Path
) -> None:
    (config,) = re.findall(r"^```text\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    with NatsServer(tmp_path, config=config.replace('"..."', "pw")) as server:
        url = server.url.replace("nats://", "nats://jobs:pw@")
        (copies,) = (await ills(await applied(settings_of, url)))["sync"]
    assert copies.where == "JSJOBS_REPLICAS"


async def test_sync_settings_that_cannot_be_seen(config: JobService.Config) -> None:
    (sync,) = (await ills(config))["sync"]
    assert "cannot see" in sync.what
    assert "sync_interval: always" in sync.remedy
    assert "$SYS.REQ.SERVER.PING.JSZ" in sync.remedy


async def test_a_user_with_few_rights_is_told_which_are_missing(settings_of: Make, tmp_path: Path) -> None:
    few = '["$SYS.REQ.USER.INFO", "$SYS.REQ.ACCOUNT.PING.STATZ", "$JS.API.INFO", "$JS.API.*.INFO.>", "*.cancel.*"]'
    async with server_with(tmp_path, publish=few) as url:
        config = await applied(settings_of, url)
        began = asyncio.get_running_loop().time()
        found = await ills(config.model_copy(update={"nats_url": url.replace("USER", "low")}))
        took = asyncio.get_running_loop().time() - began
    (finding,) = found["rights"]
    assert finding.severity is Severity.WARNING
    assert finding.where == "user low of account APP"
    needed = {"$JS.API.STREAM.MSG.GET.>", "$JS.API.CONSUMER.LIST.>", "$JS.API.DIRECT.GET.>"}
    assert {word.strip(",;") for word in finding.remedy.split() if word.startswith("$")} == needed
    assert took < 12, "nothing is asked that would not be answered"


async def test_a_user_without_any_rights_gets_an_answer(settings_of: Make, tmp_path: Path) -> None:
    async with server_with(tmp_path, publish='"nothing"') as url:
        config = await applied(settings_of, url)
        found = await ills(config.model_copy(update={"nats_url": url.replace("USER", "low")}))
    assert "$SYS.REQ.USER.INFO" in found["rights"][0].remedy
    assert "$SYS.REQ.ACCOUNT.PING.STATZ" in found["servers"][0].remedy
    assert "$JS.API.INFO" in found["limits"][0].remedy


async def test_tokens_and_passwords_are_never_shown(settings_of: Make, tmp_path: Path, database_url: str) -> None:
    with NatsServer(tmp_path, config="authorization {token: the-secret}") as server:
        config = settings_of(nats_url=server.url, nats_token="the-secret")
        assert "the-secret" not in texts(await ills(config))
        client = await nats.connect(server.url, token="the-secret")
        await client.close()
