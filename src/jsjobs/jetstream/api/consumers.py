"""API endpoints for consumers, one function each.

Each function raises `ApiError` if the server refuses, `NotPermitted` if this NATS user may not ask, and another
`JobError.RunnerUnavailable` if the server cannot be reached or JetStream is off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.errors import IncompleteList, InvalidResponse
from jsjobs.jetstream.api.requests import DEFAULT_TIMEOUT, call, find
from jsjobs.jetstream.api.types import ConsumerInfo, Declared
from jsjobs.jetstream.client.connection import Connection


async def consumer_info(connection: Connection, stream: str, consumer: str) -> ConsumerInfo:
    """Return the description of a consumer that exists."""
    endpoint = endpoints.consumer_info(stream, consumer)
    return ConsumerInfo.of(await call(connection, endpoint), endpoint)


async def find_consumer(
    connection: Connection, stream: str, consumer: str, *, timeout: float = DEFAULT_TIMEOUT
) -> ConsumerInfo | None:
    """Return the description of a consumer, or None if it or its stream does not exist."""
    endpoint = endpoints.consumer_info(stream, consumer)
    answer = await find(connection, endpoint, timeout=timeout)
    return None if answer is None else ConsumerInfo.of(answer, endpoint)


async def list_consumers(connection: Connection, stream: str) -> AsyncIterator[ConsumerInfo]:
    """Yield the description of every consumer of a stream; nothing if the stream does not exist.

    Raises:
        IncompleteList: If nodes of a cluster did not list theirs in time: a consumer that is not listed may exist.
    """
    endpoint, offset = endpoints.consumer_list(stream), 0
    while True:
        page = await find(connection, endpoint, {"offset": offset})
        if page is None:
            return
        if page.get("missing"):
            raise IncompleteList(f"the cluster did not report {len(page['missing'])} consumers of {stream} in time")
        for one in page.get("consumers") or []:
            yield ConsumerInfo.of(one, endpoint)
        try:
            offset += int(page["limit"])
            total = int(page["total"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidResponse(repr(page).encode(), endpoint) from error
        if offset >= total:
            return


async def create_consumer(
    connection: Connection, stream: str, config: Declared, action: Literal["create", "update"] = "create"
) -> None:
    """Create or change a durable consumer.

    Args:
        connection: A connection to the server.
        stream: The consumer's stream.
        config: All settings of the consumer.
        action: `create` does nothing if the consumer exists with these settings; `update` changes it.
    """
    request = {"stream_name": stream, "config": config, "action": action}
    await call(connection, endpoints.consumer_create(stream, config["name"]), request)


async def delete_consumer(connection: Connection, stream: str, consumer: str) -> None:
    """Delete a consumer, if it exists."""
    await find(connection, endpoints.consumer_delete(stream, consumer))


async def pause_consumer(connection: Connection, stream: str, consumer: str, until: datetime) -> bool:
    """Set when a consumer's pause ends; return whether the server took that for a time in the future."""
    answer = await call(connection, endpoints.consumer_pause(stream, consumer), {"pause_until": until.isoformat()})
    return bool(answer.get("paused"))
