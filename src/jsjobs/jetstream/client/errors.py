"""The errors in which a request to NATS can end."""

from __future__ import annotations

import re

from jsjobs.model.errors import JobError, Reason

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(?=[/?#]|$)")


class ConnectionLost(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The connection broke, or no answer came in time: it is not known whether the server acted on the request."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class Unreachable(JobError):  # noqa: N818 - likewise
    """No server could be reached, or none accepted the connection."""

    def __init__(self, servers: str, why: str, cause: Exception | None = None) -> None:
        super().__init__(
            Reason.RUNNER_UNAVAILABLE, f"cannot reach NATS at {without_secrets(servers)}: {why}", cause=cause
        )


class Unanswered(ConnectionLost):
    """The connection is up, but no answer came in time."""

    def __init__(self) -> None:
        super().__init__("NATS did not answer in time")


class Unstored(ConnectionLost):
    """The server answers, but does not say whether a write was stored.

    A stream whose disk was full behaves like this until its server is restarted: docs/server-quirks.md#a-full-disk.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"NATS answers, but does not confirm writes to {stream}: the disk of its server may be full; make "
            "room on it, then restart that server"
        )


class NoResponders(JobError):  # noqa: N818 - the NATS name
    """Nobody listens on the subject. For a stream's subject this means that the stream does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class ConnectionClosed(JobError):  # noqa: N818 - as above
    """The owner closed the connection for good."""

    def __init__(self) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, "the connection to NATS was closed")


class ServerTooOld(JobError):  # noqa: N818 - as above
    """The server lacks features that jsjobs needs."""

    def __init__(self, servers: str, version: str) -> None:
        super().__init__(
            Reason.RUNNER_UNAVAILABLE,
            f"nats-server 2.15 or later is needed, {without_secrets(servers)} runs {version}: please upgrade it",
        )


class TooLarge(JobError):  # noqa: N818 - as above
    """Header and body exceed the server's `max_payload`; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(Reason.VALIDATION, f"header and body are {size} bytes, the server's max_payload is {limit}")


class TooLargeForStream(TooLarge):
    """The stream does not take messages of this size; nothing was stored."""

    def __init__(self) -> None:
        JobError.__init__(self, Reason.VALIDATION, "header and body are larger than the stream's max_msg_size")


def no_streams(namespace: str) -> str:
    """Return the error text for a namespace without any streams, and what to do about it."""
    return f"no streams of namespace {namespace!r} exist: run `jsjobs streams apply`"


def without_secrets(servers: str) -> str:
    """Return the URLs without user names, passwords and tokens, safe for a log or an error."""
    shown = []
    for url in servers.split(","):
        text = url.strip()
        scheme = next((known for known in ("tls", "ws", "wss") if text.startswith(f"{known}://")), "nats")
        place = _PLACE.match(text.removeprefix(f"{scheme}://").rpartition("@")[2])
        shown.append(f"{scheme}://{place[0] if place else '…'}")
    return ",".join(shown)
