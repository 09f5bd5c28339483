"""Updating a queue's stream, so that new jobs go to the last generation of its list."""

from __future__ import annotations

import asyncio
from typing import Any

from jsjobs.jetstream import declared
from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import differences
from jsjobs.jetstream.generations import read_live
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import Priority
from jsjobs.settings import Config

SETTLE = 1.0
"""Seconds from a change of the list to the change of the stream. The server has no compare-and-set for streams: an
update that was decided on the older list must have arrived by then, or it would send new jobs back to old shards."""


async def update_queue(
    connection: Connection, names: Names, config: Config, priority: Priority, overlay: dict[str, Any] | None = None
) -> None:
    """Update a queue's stream, its transform after what the list says at this moment.

    The transform of a replicated stream is left alone. Every replica transforms by itself what the leader has taken,
    and learns of another transform at a moment of its own: around an update they would store the same job on different
    subjects, and shards would miss it (nats-server 2.15.1, measured on three nodes).

    Args:
        connection: To the server.
        names: The namespace.
        config: The settings.
        priority: Whose queue.
        overlay: What to change beside the transform.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = names.stream(priority)
    live = await read_live(connection, names, priority)
    while True:
        if len(live.generations) > 1:
            await asyncio.sleep(SETTLE)
        info = await call(connection, f"STREAM.INFO.{stream}")
        # As late as can be: nothing may come between the list and the update that follows from it.
        seen, live = live, await read_live(connection, names, priority)
        if live.revision == seen.revision:
            break
    if not live.generations:
        return
    body = {**info["config"], **(overlay or {})}
    if info["config"]["num_replicas"] == 1:
        body["subject_transform"] = declared.queue_stream(config, names, priority, live.last)["subject_transform"]
    if differences(body, info["config"]):
        # Now or not at all: kept until the connection is back it would follow from an old list.
        await call(connection, f"STREAM.UPDATE.{stream}", body, soon=True)


async def set_copies(connection: Connection, stream: str, copies: int) -> None:
    """Change how many copies a stream has; where it puts new jobs stays as it is.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    info = await call(connection, f"STREAM.INFO.{stream}")
    if info["config"]["num_replicas"] != copies:
        await call(connection, f"STREAM.UPDATE.{stream}", {**info["config"], "num_replicas": copies})
