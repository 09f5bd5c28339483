"""What nats-server does when its storage is full: docs/server-quirks.md says it, and this shows it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facts import eventually
from full_storage import BALLAST, LimitedServer, fill, fill_disk, make_room, small_disk
from jsjobs import JobService
from jsjobs.jetstream.api.errors import ApiError, LimitReached
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import Unanswered
from jsjobs.jetstream.protocol.names import Names

Make = Callable[..., JobService.Config]


async def published(connection: Connection, subject: str, body: bytes = b"1") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await connection.ask(subject.encode(), body, timeout=1)).data)
    return answer


@pytest.mark.parametrize(("limit", "code", "err_code"), [("server", 503, 10023), ("account", 400, 10002)])
async def test_at_a_limit_every_write_is_refused_and_the_rest_goes_on(
    limit: str, code: int, err_code: int, settings_of: Make, tmp_path: Path
) -> None:
    with LimitedServer(tmp_path, limit) as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        await server.lower()
        names = Names(config.namespace)
        queue, subject = names.stream("normal"), f"{config.namespace}.normal.x.echo"
        writes = [subject, f"$KV.{names.bucket}.key", f"{config.namespace}.dead.x", f"{config.namespace}.at.x"]
        async with connected(config) as connection:
            sequence = (await published(connection, subject))["seq"]
            await fill(connection)
            for write in writes:
                error = (await published(connection, write, b"1" * 100))["error"]
                assert (error["code"], error["err_code"]) == (code, err_code), write
            with pytest.raises(ApiError, match="10047"):
                await call(connection, "STREAM.CREATE.MORE", {"name": "MORE", "subjects": ["more"]})
            consumer = {"stream_name": "FILLER", "config": {"durable_name": "one", "ack_policy": "explicit"}}
            await call(connection, "CONSUMER.DURABLE.CREATE.FILLER.one", consumer)
            delivered = asyncio.get_running_loop().create_future()
            await connection.receive(b"taken", lambda _subject, reply, *_: delivered.set_result(reply))
            connection.post(b"$JS.API.CONSUMER.MSG.NEXT.FILLER.one", b"1", reply=b"taken")
            await connection.ask(await asyncio.wait_for(delivered, 5), b"+ACK")
            acked = await call(connection, "CONSUMER.INFO.FILLER.one")
            assert (acked["ack_floor"]["stream_seq"], acked["num_ack_pending"]) == (1, 0)
            await call(connection, f"CONSUMER.PAUSE.{queue}.normal-1x2-0", {"pause_until": "2100-01-01T00:00:00Z"})
            await call(connection, f"STREAM.MSG.DELETE.{queue}", {"seq": sequence, "no_erase": True})
            await make_room(connection)
            assert "seq" in await published(connection, subject), "room is room at once"
            await fill(connection)
            server.raise_limit()

            async def is_stored() -> bool:
                return "seq" in await published(connection, subject)

            await eventually(is_stored)


@pytest.mark.long
async def test_a_stream_whose_disk_was_full_answers_no_write_until_its_server_is_restarted(
    settings_of: Make, tmp_path: Path
) -> None:
    """Where no disk can be mounted, what is shown is that a limit needs no restart."""
    with small_disk(tmp_path / "disk") as disk, LimitedServer(disk or tmp_path / "nats", "server") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        if disk is None:
            await server.lower()
        deaf, other = f"{config.namespace}.normal.x.echo", f"{config.namespace}.low.x.echo"
        async with connected(config) as connection:
            for subject in (deaf, other):
                await published(connection, subject)
            if disk is None:
                await fill(connection)
                assert "error" in await published(connection, deaf)
                await make_room(connection)
            else:
                await fill_disk(disk)
                with pytest.raises(Unanswered):
                    await published(connection, deaf, b"1" * 200_000)
                await call(connection, "INFO")
                endpoint = f"CONSUMER.PAUSE.{Names(config.namespace).stream('low')}.low-1x1-0"
                with pytest.raises(LimitReached, match="the disk of nats-server is full"):
                    await call(connection, endpoint, {"pause_until": "2100-01-01T00:00:00Z"})
                (disk / BALLAST).unlink()
                assert "seq" in await published(connection, other)
                with pytest.raises(Unanswered):
                    await published(connection, deaf)
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await connection.when_up(10)
            assert "seq" in await published(connection, deaf)


@pytest.mark.long
async def test_a_full_disk_can_hang_a_server_until_it_is_killed(settings_of: Make, tmp_path: Path) -> None:
    """By a large message, the first of its stream. Where no disk can be mounted: a limit hangs nothing."""
    with small_disk(tmp_path / "disk") as disk, LimitedServer(disk or tmp_path / "nats", "server") as server:
        config = settings_of(nats_url=server.url)
        await server.prepare(config)
        if disk is None:
            await server.lower()
        subject = f"{config.namespace}.normal.x.echo"
        async with connected(config) as connection:
            if disk is None:
                await fill(connection)
                assert "error" in await published(connection, subject, b"1" * 200_000)
                await call(connection, "INFO")
                return
            await fill_disk(disk)
            for _ in range(3):
                with pytest.raises(Unanswered):
                    await published(connection, subject, b"1" * 200_000)
            (disk / BALLAST).unlink()
            with pytest.raises(Unanswered):
                await call(connection, "INFO", timeout=2)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await connection.when_up(10)
            assert "seq" in await published(connection, subject, b"1" * 200_000)
