"""The interface between a `Connection` and its NATS client, so that another client can take its place.

The client connects, authenticates, and reconnects whenever the connection breaks. It sends what was posted in order,
and calls plain functions with what arrives. Requests, inboxes, rights and waiting for a connection are left to
`Connection`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypedDict

Receiver = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message as it arrived: subject, reply subject (empty: none), raw header block (empty: none), body."""


class Login(TypedDict, total=False):
    """The name a client gives to a server, its credentials, and its TLS settings."""

    name: str
    user: str
    password: str
    token: str
    creds: Path
    """A credentials file. It is read again for each connection, since it may be replaced while the process runs."""
    nkey: Path
    """A file with an nkey seed, read again for each connection."""
    tls: Callable[[], ssl.SSLContext]
    """Builds a new context for each connection; raises `JobError` if its files cannot be used now."""


class ClientEvents(Protocol):
    """Events of a connection, reported to plain functions that must not block."""

    def on_break(self, error: Exception) -> None:
        """Handle the loss of the connection, before anything else runs.

        It may be called twice for one loss.
        """

    def on_reconnect(self) -> None:
        """Handle a new connection, once all subscriptions are restored."""

    def on_error(self, error: Exception) -> None:
        """Handle an error from the server, or a failed attempt to connect."""


class NatsClient(Protocol):
    """One connection to NATS, which reconnects until `close`."""

    max_payload: int
    """Bytes of header and body that the server takes in one message."""
    pending_bytes: int
    """Bytes that were posted and not yet handed to the socket."""
    reconnects: int
    """The number of reconnects so far."""

    @property
    def needs_tls(self) -> bool:
        """Return whether TLS was asked for; if so, nothing is sent without it."""

    @property
    def is_connected(self) -> bool:
        """Return whether messages can be posted now."""

    @property
    def is_closed(self) -> bool:
        """Return whether the client was closed for good."""

    @property
    def is_behind(self) -> bool:
        """Return whether the server has sent more than was read."""

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Return the version of the server that the client is or was last connected to."""

    @property
    def server_count(self) -> int:
        """Return the number of known servers."""

    @property
    def subscription_count(self) -> int:
        """Return the number of subscriptions whose function may still be called."""

    @property
    def last_error(self) -> Exception | None:
        """Return the error of the last attempt to connect."""

    async def connect(self, urls: list[str], *, timeout: float, login: Login) -> None:
        """Try to connect until a server accepts; each failure goes to `ClientEvents.on_error`.

        Args:
            urls: The URLs of servers of one cluster.
            timeout: Seconds for one attempt, also when reconnecting.
            login: Credentials and TLS settings.

        Raises:
            Exception: If the URLs or files are unusable, so that no attempt can succeed.
        """

    async def close(self) -> None:
        """Send what was posted, for two seconds at most, then close for good.

        Closing again does nothing.
        """

    def abandon(self) -> None:
        """Never touch the socket again: this process was forked, and the socket belongs to its parent."""

    def post(self, subject: bytes, data: bytes = b"", *, reply: bytes = b"", header: bytes = b"") -> None:
        """Post one message, without waiting and without a receipt.

        The subject must be valid: it is not checked again.

        Raises:
            ConnectionLost: If there is no connection now. The message is not sent later either.
            TooLarge: If header and body exceed `max_payload`.
        """

    async def sent(self) -> None:
        """Wait until the socket has taken everything posted, the connection broke, or five seconds have passed."""

    async def flush(self, timeout: float) -> None:
        """Wait until the server has handled everything posted, and everything it sent before that has arrived.

        Raises:
            ConnectionLost: If there is no connection, the connection broke, or `timeout` seconds passed.
        """

    def listen(self, subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
        """Subscribe a plain function, on this connection and all later ones; it must not block.

        Returns:
            The subscription's id.
        """

    def listen_no_more(self, sid: int) -> None:
        """Unsubscribe; what the server sent before still reaches the function, until `forget`."""

    def forget(self, sid: int) -> None:
        """Stop calling the function of an ended subscription."""
