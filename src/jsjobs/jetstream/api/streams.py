"""API endpoints for streams, one function each.

Each function raises `ApiError` if the server refuses, `NotPermitted` if this NATS user may not ask, and another
`JobError.RunnerUnavailable` if the server cannot be reached or JetStream is off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.requests import DEFAULT_TIMEOUT, call, find
from jsjobs.jetstream.api.types import Declared, StreamInfo
from jsjobs.jetstream.client.connection import Connection


async def stream_info(
    connection: Connection, stream: str, *, subjects: str | None = None, timeout: float = DEFAULT_TIMEOUT
) -> StreamInfo:
    """Return the description of a stream that exists.

    Args:
        connection: A connection to the server.
        stream: The stream's name.
        subjects: Also count the messages on each subject that matches this one, 100,000 subjects at most.
        timeout: Seconds to wait for the answer.
    """
    endpoint = endpoints.stream_info(stream)
    return StreamInfo.of(await call(connection, endpoint, _filter(subjects), timeout=timeout), endpoint)


async def find_stream(
    connection: Connection,
    stream: str,
    *,
    subjects: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> StreamInfo | None:
    """Return the description of a stream as `stream_info` does, or None if it does not exist."""
    endpoint = endpoints.stream_info(stream)
    answer = await find(connection, endpoint, _filter(subjects), timeout=timeout)
    return None if answer is None else StreamInfo.of(answer, endpoint)


async def stream_pages(connection: Connection, stream: str, subjects: str) -> AsyncIterator[StreamInfo]:
    """Yield the description of a stream again and again, with further subjects each time.

    Nothing is yielded if the stream does not exist.

    Args:
        connection: A connection to the server.
        stream: The stream's name.
        subjects: Which subjects to count.
    """
    endpoint, offset = endpoints.stream_info(stream), 0
    while True:
        answer = await find(connection, endpoint, {**_filter(subjects), "offset": offset})
        if answer is None:
            return
        info = StreamInfo.of(answer, endpoint)
        yield info
        offset += len(info.state.subjects)
        if not info.state.subjects or offset >= info.total:
            return


async def create_stream(connection: Connection, config: Declared) -> None:
    """Create a stream."""
    await call(connection, endpoints.stream_create(config["name"]), config)


async def update_stream(connection: Connection, config: Declared, *, soon: bool = False) -> None:
    """Change a stream's settings.

    Args:
        connection: A connection to the server.
        config: All settings, with their new values.
        soon: Whether to fail at once if the connection is not up, instead of waiting for it.
    """
    await call(connection, endpoints.stream_update(config["name"]), config, soon=soon)


async def delete_stream(connection: Connection, stream: str) -> None:
    """Delete a stream and everything in it, if it exists."""
    await find(connection, endpoints.stream_delete(stream))


async def purge_stream(connection: Connection, stream: str, *, subjects: str, before: int) -> None:
    """Delete a stream's messages on matching subjects, up to a sequence.

    Args:
        connection: A connection to the server.
        stream: The stream's name.
        subjects: The subjects of the messages to delete.
        before: The first sequence that stays.
    """
    await call(connection, endpoints.stream_purge(stream), {"filter": subjects, "seq": before})


async def step_down(connection: Connection, stream: str, successor: str) -> None:
    """Give a stream another leader.

    Args:
        connection: A connection to the server.
        stream: The stream's name.
        successor: The server that is to become its leader.
    """
    await call(connection, endpoints.leader_stepdown(stream), {"placement": {"preferred": successor}})


async def delete_message(
    connection: Connection, stream: str, sequence: int, *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Delete one message; its bytes stay on the disk until they are overwritten."""
    request = {"seq": sequence, "no_erase": True}
    await call(connection, endpoints.message_delete(stream), request, timeout=timeout)


def _filter(subjects: str | None) -> dict[str, Any]:
    return {} if subjects is None else {"subjects_filter": subjects}
