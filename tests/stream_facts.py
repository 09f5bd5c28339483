"""What a stream holds, asked for on a connection of the library's own kind."""

from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection


async def messages_in(connection: Connection, stream: str) -> int:
    return (await call(connection, f"STREAM.INFO.{stream}"))["state"]["messages"]


async def consumers_of(connection: Connection, stream: str) -> set[str]:
    return set((await call(connection, f"CONSUMER.NAMES.{stream}"))["consumers"])


async def delete_consumer(connection: Connection, stream: str, consumer: str) -> None:
    assert (await call(connection, f"CONSUMER.DELETE.{stream}.{consumer}"))["success"]
