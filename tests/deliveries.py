"""Deliveries as few as no settings allow: the server gives a message up soon."""

from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards


async def set_max_deliver(config: JobService.Config, most: int) -> None:
    """Set it on every shard's consumer, as an operator might, or an older version did."""
    names = Names(config.namespace)
    async with connected(config, name="test") as connection:
        for shard, info in (await live_shards(connection, names)).items():
            stream = names.stream(shard.priority)
            changed = info.config.as_told | {"max_deliver": most}
            body = {"stream_name": stream, "config": changed, "action": "update"}
            await call(connection, f"CONSUMER.DURABLE.CREATE.{stream}.{shard.consumer}", body)
