"""Refusals of the server, and the errors that are raised for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jsjobs.model.errors import JobError, Reason

MESSAGE_NOT_FOUND = 10037
CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
OVER_MAX_MSG_SIZE = 10054
STORE_FAILED = 10077
"""The server's code when a limit of the stream itself is reached, such as messages per subject or bytes of a queue."""
NO_STORAGE_LEFT = 10047
"""The server's code when a stream is to reserve more bytes than are left."""
_MOST_TEXT = 1000
"""Limit for repeated server error text, in characters."""
_LIMITS = {
    10002: "the storage of this NATS account is full: raise `max_file` of the account, or make room in it",
    10023: "the file storage of nats-server is full: raise `max_file` in its `jetstream` block, or make room on it",
    10026: "the account has reached its limit of consumers: raise its `max_consumers`",
    10027: "the account has reached its limit of streams: raise its `max_streams`",
    10028: "nats-server or the account has too little memory storage left for it: raise `max_mem`",
    NO_STORAGE_LEFT: (
        "nats-server or the account has too little file storage left to reserve for it: raise `max_file`, or lower "
        "JSJOBS_QUEUE_BYTES (2 GiB by default) or JSJOBS_LANE_BYTES (1 GiB)"
    ),
}
"""Each limit and what to do about it, by the server's error code."""
_DISK = "the disk of nats-server is full: make room on it, then restart that server"
_FULL_DISK = "no space left on device"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The `error` of an answer. Both codes are the server's own; `err_code` names the exact reason (`errors.json`)."""

    code: int
    err_code: int
    description: str
    """The server's text, its first 1,000 characters."""

    @classmethod
    def of(cls, error: dict[str, Any]) -> Refusal:
        """Read an `error`, whatever types its values have: a stranger may have answered."""
        text = str(error.get("description", ""))
        return cls(_number(error.get("code")), _number(error.get("err_code")), text[:_MOST_TEXT])

    @property
    def is_full_disk(self) -> bool:
        """Return whether a full disk caused it, whatever its code."""
        return _FULL_DISK in self.description

    @property
    def limit(self) -> str | None:
        """Return which limit is reached and what to do, or None if the reason is another one."""
        if self.is_full_disk:
            return _DISK
        if self.err_code == STORE_FAILED:
            return f"a limit of the stream itself is reached ({self.description})"
        return _LIMITS.get(self.err_code)


class ApiError(JobError):
    """The server refused a request; `refusal` is its answer."""

    def __init__(self, refusal: Refusal, what: str) -> None:
        self.refusal = refusal
        unavailable = refusal.code >= 500  # noqa: PLR2004 - as in HTTP: the server's fault, not the caller's
        reason = Reason.RUNNER_UNAVAILABLE if unavailable else Reason.VALIDATION
        super().__init__(reason, f"{what}: {refusal.description} (code {refusal.err_code})")

    @property
    def err_code(self) -> int:
        """Return the server's code for the exact reason."""
        return self.refusal.err_code


class LimitReached(ApiError):  # noqa: N818 - reads as what happened
    """A limit of the server or of the account is reached, or a disk is full; nothing was done.

    The request may succeed later, once somebody has made room.
    """

    def __init__(self, refusal: Refusal, what: str) -> None:
        super().__init__(refusal, what)
        self.limit = refusal.limit or refusal.description
        """Which limit is reached, and what to do."""
        text = f"{what}: {self.limit} ({refusal.description}, code {refusal.err_code})"
        JobError.__init__(self, Reason.RUNNER_UNAVAILABLE, text)


class InvalidResponse(ApiError):  # noqa: N818 - reads as what it is
    """An answer that is not the server's: whoever may read the question may answer it too."""

    def __init__(self, answer: bytes, what: str) -> None:
        super().__init__(Refusal(503, 0, f"not a valid answer of the server: {answer[:100]!r}"), what)


class IncompleteList(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """Part of the cluster did not answer in time: ask again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


def api_error(refusal: Refusal, what: str) -> ApiError:
    """Return the error to raise for a refusal.

    Args:
        refusal: The server's answer.
        what: The request, for the error's text.
    """
    return ApiError(refusal, what) if refusal.limit is None else LimitReached(refusal, what)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
