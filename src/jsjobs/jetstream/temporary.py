"""A namespace for a while: its streams are made, and deleted with all that is in them."""

from __future__ import annotations

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connect import connected
from jsjobs.jetstream.declared import side_streams
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.model.job import Priority
from jsjobs.settings import Config


async def deploy(config: Config) -> None:
    """Create the streams of a namespace.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    async with connected(config) as connection:
        await Topology(connection, Names(config.namespace), config).apply()


async def remove(config: Config) -> None:
    """Delete the streams of a namespace, with all that is in them.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    names = Names(config.namespace)
    streams = [*(stream["name"] for stream in side_streams(config, names)), *map(names.stream, Priority)]
    async with connected(config) as connection:
        for stream in streams:
            await find(connection, f"STREAM.DELETE.{stream}")
