"""What the doctor says of storage that is full, or nearly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnosis import ills, the_ill
from full_storage import LimitedServer, fill, make_room
from jsjobs import JobService
from jsjobs.doctor import Severity, examine
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names

Make = Callable[..., JobService.Config]


async def storage(config: JobService.Config) -> list[Any]:
    return [finding for finding in await examine(config, environ={}, known_variables=()) if finding.check == "storage"]


async def last_of_bucket(connection: Connection, config: JobService.Config) -> int:
    info = await call(connection, f"STREAM.INFO.{Names(config.namespace).state_stream}")
    return int(info["state"]["last_seq"])


async def test_a_full_server_is_a_problem_and_nothing_is_written_to_find_out(settings_of: Make, tmp_path: Path) -> None:
    with LimitedServer(tmp_path, "server") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        await server.lower()
        async with connected(config) as connection:
            before = await last_of_bucket(connection, config)
            (good,) = await storage(config)
            assert good.severity is Severity.OK
            assert "this account cannot see" in good.what
            await fill(connection)
            finding = await the_ill(config, "storage")
            assert finding.severity is Severity.PROBLEM
            assert "nothing can be stored: the file storage of nats-server is full" in finding.what
            assert "`max_file`" in finding.remedy
            await make_room(connection)
            assert (await storage(config))[0].severity is Severity.OK
            assert await last_of_bucket(connection, config) == before


async def test_a_full_account_is_a_problem(settings_of: Make, tmp_path: Path) -> None:
    with LimitedServer(tmp_path, "account") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        await server.lower()
        async with connected(config) as connection:
            await fill(connection)
            finding = await the_ill(config, "limits")
    assert finding.severity is Severity.PROBLEM
    assert "of 20,971,520 bytes of storage are used" in finding.what


async def test_how_near_a_server_is_to_its_limit_is_seen_where_the_account_may_ask(
    settings_of: Make, tmp_path: Path
) -> None:
    with LimitedServer(tmp_path, "imported") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        (roomy,) = await storage(config)
        assert roomy.severity is Severity.OK
        assert "bytes on" in roomy.what
        await server.lower()
        async with connected(config) as connection:
            for _ in range(36):
                await connection.ask(b"filler", b"x" * 500_000)
        near, promised = (await ills(config))["storage"]
    assert (near.severity, promised.severity) == (Severity.WARNING, Severity.WARNING)
    assert "of 20,971,520 bytes of its storage are used" in near.what
    assert "its streams may hold" in promised.what
    assert "JSJOBS_QUEUE_BYTES" in promised.remedy


async def test_a_disk_with_less_room_than_the_limit_promises(settings_of: Make, tmp_path: Path) -> None:
    with LimitedServer(tmp_path, "imported", roomy="900TB") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        finding = await the_ill(config, "storage")
    assert finding.severity is Severity.WARNING
    assert "its disk has" in finding.what


async def test_a_user_who_may_neither_ask_nor_write_is_told_what_to_import(settings_of: Make, tmp_path: Path) -> None:
    users = '[{user: low, password: pw, permissions: {publish: {deny: "$KV.>"}}}]'
    with NatsServer(tmp_path, config=f"authorization {{ users: {users} }}") as server:
        (finding,) = await storage(settings_of(nats_url=server.url.replace("nats://", "nats://low:pw@")))
    assert finding.severity is Severity.NOTE
    assert "$SYS.REQ.SERVER.PING.JSZ" in finding.remedy
