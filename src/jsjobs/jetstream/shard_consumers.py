"""Making, pausing and resuming the consumers of shards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from jsjobs.jetstream import declared
from jsjobs.jetstream.api import call, parse_time, server_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.settings import Config

FOR_GOOD = datetime(2100, 1, 1, tzinfo=UTC)
"""Until when a waiting generation is paused: a pause that ran out by itself would run two generations at once."""
UNTIL_RESUMED = datetime(2099, 1, 1, tzinfo=UTC)
"""Until when an operator's pause without an end lasts: another date than `FOR_GOOD`, which a change of the shard count
lifts by itself."""
_MOMENT = 0.5
"""Seconds ahead that a pause is set to end: a consumer whose pause is merely lifted is not woken by the server."""


async def create_consumer(
    connection: Connection, names: Names, config: Config, shard: Shard, until: datetime | None
) -> None:
    """Make a shard's consumer, if it does not exist.

    Args:
        connection: To the server.
        names: The namespace.
        config: The consumer's settings.
        shard: Whose consumer.
        until: When its pause ends; None: it runs at once.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    body = declared.shard_consumer(config, names, shard)
    if until is not None:
        body["pause_until"] = until.isoformat()
    stream = names.stream(shard.priority)
    request = {"stream_name": stream, "config": body, "action": "create"}
    await call(connection, f"CONSUMER.DURABLE.CREATE.{stream}.{shard.consumer}", request)


async def pause(connection: Connection, stream: str, consumer: str, until: datetime) -> bool:
    """Set when a consumer's pause ends; whether the server took that for a time to come.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    body = {"pause_until": until.isoformat()}
    answer = await call(connection, f"CONSUMER.PAUSE.{stream}.{consumer}", body)
    return bool(answer["paused"])


async def resume(
    connection: Connection, stream: str, consumer: str, *, operators_pause: datetime | None = None
) -> None:
    """End a consumer's pause in a moment, or when an operator's own pause ends.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    ahead = _MOMENT
    while True:
        now = server_time(await call(connection, f"CONSUMER.INFO.{stream}.{consumer}"))
        until = later(now + timedelta(seconds=ahead), operators_pause)
        if until is None or await pause(connection, stream, consumer, until):
            return
        ahead *= 2  # by the time it arrived it was over, and nobody woke the consumer


def paused_until(info: dict[str, Any]) -> datetime | None:
    """When a consumer's pause ends; None if it runs."""
    return parse_time(info["config"]["pause_until"]) if info.get("paused") else None


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later end of two pauses of operators; one for good is none of theirs."""
    return max((time for time in (one, other) if time is not None and time != FOR_GOOD), default=None)
