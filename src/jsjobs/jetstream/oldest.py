"""Since when the jobs wait that wait longest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import datetime

from jsjobs.jetstream.api import parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.jetstream.wire import value_of


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
    subject = f"$JS.API.DIRECT.GET.{names.stream(shard.priority)}".encode()
    stored = value_of((await connection.ask(subject, json.dumps(request).encode())).header, b"Nats-Time-Stamp")
    return None if stored is None else parse_time(stored.decode())


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
