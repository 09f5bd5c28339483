"""Reading a stream message by message."""

import pytest
from nats.aio.client import Client

from jsjobs import JobService
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority


async def test_messages_come_in_their_order_with_all_they_have(
    jobs: JobService, connection: Connection, plain: Client, namespace: str
) -> None:
    stream = Names(namespace).stream(Priority.LOW)
    assert [message async for message in stored(connection, stream)] == []
    for entity, body in (("a", b"1"), ("b", b""), ("a", b"\xff")):
        await plain.jetstream().publish(f"{namespace}.low.{entity}.kind", body, headers={"Own": "x"})
    messages = [message async for message in stored(connection, stream)]
    assert [message.data for message in messages] == [b"1", b"", b"\xff"]
    assert [message.sequence for message in messages] == sorted({message.sequence for message in messages})
    assert all(message.subject.endswith(b".kind") and b"Own: x" in message.header for message in messages)
    assert messages[0].stored_at <= messages[1].stored_at <= messages[2].stored_at
    later = [message async for message in stored(connection, stream, after=messages[0].sequence)]
    assert later == messages[1:]
    assert [message async for message in stored(connection, stream, f"{namespace}.work.low.*.7.>")] == []


async def test_a_stream_that_does_not_exist_is_no_empty_one(connection: Connection) -> None:
    with pytest.raises(NoResponders):
        [message async for message in stored(connection, "NO_SUCH")]
