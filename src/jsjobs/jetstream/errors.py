"""What a request to NATS can end in, besides an answer."""

from __future__ import annotations

import re

from jsjobs.model.errors import JobError, Reason

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(?=[/?#]|$)")


class ConnectionLost(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The connection broke, or no answer came in time: whether the server acted on the request is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class Unanswered(ConnectionLost):
    """The connection stands, and no answer came in time."""

    def __init__(self) -> None:
        super().__init__("NATS did not answer in time")


class Unstored(ConnectionLost):
    """The server answers, but says of a write neither that it was stored nor that it was not.

    A stream whose disk was full does so until its server is restarted (nats-server 2.15.1).
    """

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"NATS answers, but does not confirm what is written to {stream}: the disk of its server may be full; make "
            "room on it, then restart that server"
        )


class NoResponders(JobError):  # noqa: N818 - the NATS name
    """Nobody listens on that subject: for a stream's subject, the stream does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class ConnectionClosed(JobError):  # noqa: N818 - as above
    """The connection was closed for good, by its owner."""

    def __init__(self) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, "the connection to NATS was closed")


class ServerTooOld(JobError):  # noqa: N818 - as above
    """The server lacks what jsjobs is built on."""

    def __init__(self, servers: str, version: str) -> None:
        super().__init__(
            Reason.RUNNER_UNAVAILABLE,
            f"nats-server 2.15 or later is needed, {without_secrets(servers)} runs {version}: please upgrade it",
        )


class TooLarge(JobError):  # noqa: N818 - as above
    """Header and body are more than the server's `max_payload`; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            Reason.VALIDATION, f"header and body are {size} bytes, the server takes {limit} (its max_payload)"
        )


class TooLargeForStream(TooLarge):
    """The stream takes no message of that size; nothing was stored."""

    def __init__(self) -> None:
        JobError.__init__(
            self, Reason.VALIDATION, "header and body are larger than the stream takes (its max_msg_size)"
        )


def no_streams(namespace: str) -> str:
    """What to say and do where nothing of a namespace is there."""
    return f"no streams of namespace {namespace!r} exist: run `jsjobs streams apply`"


def without_secrets(servers: str) -> str:
    """The URLs without user names, passwords and tokens, fit for a log or an error."""
    shown = []
    for url in servers.split(","):
        text = url.strip()
        scheme = next((known for known in ("tls", "ws", "wss") if text.startswith(f"{known}://")), "nats")
        place = _PLACE.match(text.removeprefix(f"{scheme}://").rpartition("@")[2])
        shown.append(f"{scheme}://{place[0] if place else '…'}")
    return ",".join(shown)
