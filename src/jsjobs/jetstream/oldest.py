"""Since when the jobs wait that wait longest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.stored import find_stored
from jsjobs.jetstream.subjects import Names, Shard


async def first_waiting(connection: Connection, names: Names, shard: Shard, last_delivered: int) -> datetime | None:
    """When the first job was stored that a shard has not been given yet; None if there is none by now.

    Args:
        connection: To the server.
        names: The namespace.
        shard: Which.
        last_delivered: Place in the queue of the last job it was given.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    stands_on = f"{names.stored(shard.priority, shard.generation)}.{shard.number}.>"
    request = {"seq": last_delivered + 1, "next_by_subj": stands_on}
    message = await find_stored(connection, names.stream(shard.priority), request)
    return None if message is None else message.stored_at


async def oldest_waiting(
    connection: Connection, names: Names, shards: Iterable[tuple[Shard, int]]
) -> dict[Shard, datetime | None]:
    """As `first_waiting` of many shards at once, with one request for each.

    Args:
        connection: To the server.
        names: The namespace.
        shards: Each, and the place in the queue of the last job it was given.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    asked = dict(shards)
    found = await asyncio.gather(*(first_waiting(connection, names, *each) for each in asked.items()))
    return dict(zip(asked, found, strict=True))
