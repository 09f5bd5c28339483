"""Requests to the JetStream API in the server's own JSON, on which the rest of this package is built."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

from jsjobs.jetstream.api.endpoints import changes_nothing, subject
from jsjobs.jetstream.api.errors import (
    CONSUMER_NOT_FOUND,
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
    InvalidResponse,
    Refusal,
    api_error,
)
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import NoResponders
from jsjobs.model.errors import JobError

DEFAULT_TIMEOUT = 10.0
"""Seconds to wait for an answer of the API."""


async def call(
    connection: Connection,
    endpoint: str,
    body: dict[str, Any] | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    soon: bool = False,
) -> dict[str, Any]:
    """Ask an endpoint and return its answer.

    Args:
        connection: A connection to the server.
        endpoint: The endpoint, such as `STREAM.INFO.JOBS_HIGH`.
        body: The request.
        timeout: Seconds to wait for the answer.
        soon: Whether to fail at once if the connection is not up, instead of waiting for it.

    Raises:
        ApiError: If the server refuses.
        JobError: `RunnerUnavailable`, if it cannot be reached or JetStream is off.
    """
    data = b"" if body is None else json.dumps(body).encode()
    try:
        ask = connection.ask_soon if soon else connection.ask
        reply = await ask(subject(endpoint).encode(), data, timeout=timeout, again=changes_nothing(endpoint))
    except NoResponders as error:
        raise JobError.from_runner_unavailable("JetStream is not enabled on this server or for this account") from error
    answer = read_answer(reply.data, endpoint)
    if isinstance(answer, Refusal):
        raise api_error(answer, endpoint)
    return answer


async def find(
    connection: Connection, endpoint: str, body: dict[str, Any] | None = None, *, timeout: float = DEFAULT_TIMEOUT
) -> dict[str, Any] | None:
    """Ask an endpoint as `call` does, but return None if the stream, consumer or message does not exist."""
    try:
        return await call(connection, endpoint, body, timeout=timeout)
    except ApiError as error:
        if error.err_code in {STREAM_NOT_FOUND, CONSUMER_NOT_FOUND, MESSAGE_NOT_FOUND}:
            return None
        raise


def read_answer(answer: bytes, what: str) -> dict[str, Any] | Refusal:
    """Return the server's answer, a JSON object, or its refusal.

    Args:
        answer: The answer's body.
        what: The request, for the error's text.

    Raises:
        InvalidResponse: If it is something else.
    """
    try:
        value = from_json(answer)
    except ValueError as error:
        raise InvalidResponse(answer, what) from error
    if not isinstance(value, dict):
        raise InvalidResponse(answer, what)
    if "error" not in value:
        return value
    if not isinstance(value["error"], dict):
        raise InvalidResponse(answer, what)
    return Refusal.of(value["error"])
