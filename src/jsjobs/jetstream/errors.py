"""What a request to NATS can end in, besides an answer."""

from __future__ import annotations

from urllib.parse import urlsplit

from jsjobs.model.errors import JobError, Reason


class ConnectionLost(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The connection broke, or no answer came in time: whether the server acted on the request is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class NoResponders(JobError):  # noqa: N818 - the NATS name
    """Nobody listens on that subject: for a stream's subject, the stream does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class ConnectionClosed(JobError):  # noqa: N818 - as above
    """The connection was closed for good, by its owner."""

    def __init__(self) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, "the connection to NATS was closed")


class TooLarge(JobError):  # noqa: N818 - as above
    """Header and body are more than the server's `max_payload`; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            Reason.VALIDATION, f"header and body are {size} bytes, the server takes {limit} (its max_payload)"
        )


def without_secrets(servers: str) -> str:
    """The URLs without user names, passwords and tokens, fit for a log or an error."""
    shown = []
    for url in servers.split(","):
        parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
        shown.append(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    return ",".join(shown)
