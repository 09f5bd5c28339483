"""Requests to the JetStream API, in the server's own JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import NoResponders
from jsjobs.model.errors import JobError, Reason

CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
MESSAGE_NOT_FOUND = 10037
MOST_TEXT = 1000
"""Characters of what the server says of an error that are repeated."""
STORE_FAILED = 10077
"""A limit of the stream itself is reached, such as the messages of a subject or the bytes of a queue."""
OVER_MAX_MSG_SIZE = 10054
_LIMITS = {
    10002: "the storage of this NATS account is full: raise `max_file` of the account, or make room in it",
    10023: "the file storage of nats-server is full: raise `max_file` in its `jetstream` block, or make room on it",
    10026: "the account has as many consumers as it may: raise its `max_consumers`",
    10027: "the account has as many streams as it may: raise its `max_streams`",
    10028: "nats-server or the account has too little memory storage left for it: raise `max_mem`",
    10047: (
        "nats-server or the account has too little file storage left to reserve for it: raise `max_file`, or lower "
        "JSJOBS_QUEUE_BYTES, which each of the four queues reserves (2 GiB by default)"
    ),
}
"""What each limit is, and what to do, by the server's code."""
_DISK = "the disk of nats-server is full: make room on it, then restart that server"
_FULL_DISK = "no space left on device"


class ApiError(JobError):
    """The server refused a request.

    `code` and `err_code` are the server's own; `err_code` names the exact reason (nats-server, `errors.json`).
    """

    def __init__(self, error: dict[str, Any], what: str) -> None:
        self.code = _number(error.get("code"))
        self.err_code = _number(error.get("err_code"))
        self.description = str(error.get("description", ""))[:MOST_TEXT]
        unavailable = self.code >= 500  # noqa: PLR2004 - as in HTTP: the server's trouble, not the caller's
        reason = Reason.RUNNER_UNAVAILABLE if unavailable else Reason.VALIDATION
        super().__init__(reason, f"{what}: {self.description} (code {self.err_code})")


class LimitReached(ApiError):  # noqa: N818 - reads as what happened
    """There is no room for it: a limit of the server or of the account is reached, or a disk is full; nothing was done.

    It may succeed later, once somebody has made room.
    """

    def __init__(self, error: dict[str, Any], what: str) -> None:
        super().__init__(error, what)
        self.limit = _limit_of(error) or self.description
        """Which, and what to do."""
        JobError.__init__(
            self, Reason.RUNNER_UNAVAILABLE, f"{what}: {self.limit} ({self.description}, code {self.err_code})"
        )


class Garbled(ApiError):  # noqa: N818 - reads as what it is
    """An answer that is none of the server's: somebody who may read the question may answer it too."""

    def __init__(self, answer: bytes, what: str) -> None:
        super().__init__({"code": 503, "description": f"not an answer of the server: {answer[:100]!r}"}, what)


class IncompleteList(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """A part of the cluster did not answer in time: ask again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


async def call(
    connection: Connection,
    endpoint: str,
    body: dict[str, Any] | None = None,
    *,
    timeout: float = 10.0,
    soon: bool = False,
) -> dict[str, Any]:
    """Ask one endpoint, e.g. `STREAM.INFO.JOBS_HIGH`; its answer.

    Args:
        connection: To the server.
        endpoint: The subject after `$JS.API.`.
        body: The request.
        timeout: Seconds.
        soon: Fail at once where the connection does not stand, instead of waiting for it.

    Raises:
        ApiError: If the server refuses.
        JobError: `RunnerUnavailable`, if it cannot be reached or JetStream is off.
    """
    data = b"" if body is None else json.dumps(body).encode()
    try:
        ask = connection.ask_soon if soon else connection.ask
        reply = await ask(f"$JS.API.{endpoint}".encode(), data, timeout=timeout, again=_changes_nothing(endpoint))
    except NoResponders as error:
        raise JobError.from_runner_unavailable("JetStream is not enabled on this server or for this account") from error
    answer = read_answer(reply.data, endpoint)
    if "error" in answer:
        raise api_error(answer["error"], endpoint)
    return answer


async def find(
    connection: Connection, endpoint: str, body: dict[str, Any] | None = None, *, timeout: float = 10.0
) -> dict[str, Any] | None:
    """As `call`, but None where the stream, consumer or message does not exist."""
    try:
        return await call(connection, endpoint, body, timeout=timeout)
    except ApiError as error:
        if error.err_code in {STREAM_NOT_FOUND, CONSUMER_NOT_FOUND, MESSAGE_NOT_FOUND}:
            return None
        raise


async def consumers(connection: Connection, stream: str) -> AsyncIterator[dict[str, Any]]:
    """The information of every consumer of a stream; nothing where the stream does not exist.

    Raises:
        IncompleteList: If nodes of a cluster did not tell of theirs in time: what is not listed may exist.
    """
    offset = 0
    while True:
        page = await find(connection, f"CONSUMER.LIST.{stream}", {"offset": offset})
        if page is None:
            return
        if page.get("missing"):
            raise IncompleteList(f"the cluster has not told of {len(page['missing'])} consumers of {stream} in time")
        for info in page.get("consumers") or []:
            yield info
        offset += int(page["limit"])
        if offset >= int(page["total"]):
            return


def api_error(error: dict[str, Any], what: str) -> ApiError:
    """Return what to raise for a refusal of the server.

    Args:
        error: The `error` of its answer.
        what: What was asked for.
    """
    return ApiError(error, what) if _limit_of(error) is None else LimitReached(error, what)


def is_full_disk(error: dict[str, Any]) -> bool:
    """Whether a refusal of the server, of whatever code, comes from a full disk."""
    return _FULL_DISK in str(error.get("description", ""))


def _limit_of(error: dict[str, Any]) -> str | None:
    code, text = error.get("err_code"), str(error.get("description", ""))
    if is_full_disk(error):
        return _DISK
    if code == STORE_FAILED:
        return f"a limit of the stream itself is reached ({text[:MOST_TEXT]})"
    return _LIMITS.get(code) if isinstance(code, int) else None


def server_time(answer: dict[str, Any]) -> datetime:
    """The server's clock, as an INFO answer tells it."""
    return parse_time(answer["ts"])


def read_answer(answer: bytes, what: str) -> dict[str, Any]:
    """What the server answered, a refusal included: a JSON object, whose `error`, if there is one, is another.

    Raises:
        Garbled: If it is something else.
    """
    try:
        value = from_json(answer)
    except ValueError as error:
        raise Garbled(answer, what) from error
    if not isinstance(value, dict) or not isinstance(value.get("error", {}), dict):
        raise Garbled(answer, what)
    return value


def _changes_nothing(endpoint: str) -> bool:
    kind, _, rest = endpoint.partition(".")
    return kind == "INFO" or rest.startswith(("INFO.", "LIST", "NAMES", "MSG.GET."))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the server, its nanoseconds cut to microseconds.

    Raises:
        ValueError: If it is none.
    """
    head, dot, tail = text.partition(".")
    if not dot:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    digits = tail.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = tail[len(digits) :]
    return datetime.fromisoformat(f"{head}.{digits[:6]:0<6}{zone.replace('Z', '+00:00') or '+00:00'}")
