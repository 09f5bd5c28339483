"""How long the server remembers the message ids by which it finds duplicates; see docs/server-quirks.md."""

import json
from pathlib import Path
from typing import Any

from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.settings import Config

QUEUE: dict[str, Any] = {
    "name": "QUEUE",
    "subjects": ["queue.>"],
    "storage": "file",
    "retention": "workqueue",
    "duplicate_window": 120 * 10**9,
}


async def is_duplicate(connection: Connection, key: str) -> bool:
    header = f"NATS/1.0\r\nNats-Msg-Id: {key}\r\n\r\n".encode()
    answer = json.loads((await connection.ask(b"queue.job", b"1", header=header)).data)
    assert "seq" in answer, answer
    return answer.get("duplicate", False)


async def test_a_restarted_server_remembers_the_ids_of_stored_messages_alone(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with connected(Config(nats_url=server.url)) as connection:
            await call(connection, "STREAM.CREATE.QUEUE", QUEUE)
            assert not await is_duplicate(connection, "ended")
            await call(connection, "STREAM.MSG.DELETE.QUEUE", {"seq": 1})
            assert not await is_duplicate(connection, "waits")
            assert await is_duplicate(connection, "ended")
        server.stop()
        server.start()
        async with connected(Config(nats_url=server.url)) as connection:
            assert await is_duplicate(connection, "waits")
            assert not await is_duplicate(connection, "ended")
