"""Health endpoints for Kubernetes and load balancers: is this process alive, and does work reach it?

`GET /live` is 200 while the event loop answers, `GET /ready` while work reaches the process. Otherwise the status is
503, and the JSON body says why in words. The server has threads of its own, so it answers even if the event loop is
stalled. It may be open to a whole cluster: how much it reads, for how long, and for how many clients at once, is
bounded.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, Self

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.health")

LIVE_WITHIN = 5.0
"""Seconds that the event loop may take to answer before it counts as stalled."""
_PULSE = 0.2
_REQUEST_WITHIN = 3.0
_MOST_CONNECTIONS = 32
_MOST_BYTES = 1 << 14


class Readiness(NamedTuple):
    """The readiness of this process: work reaches it, or the reasons why it does not."""

    reasons: list[str]
    """The reasons why no work reaches it; empty while it does."""
    notes: list[str]
    """Anything else an operator should know; notes do not affect the readiness."""


class HealthServer:
    """The HTTP server of the health endpoints; a context manager, to be entered in the event loop that it watches.

    Args:
        readiness: Called for each `/ready`, in another thread than the event loop's.
        host: Name or address to listen on; None: every interface, and IPv6 too where there is any.
        port: Port to listen on; 0: any free one, see `port`.
        trouble: Called for each request, also in another thread: it returns, in words, why other processes that this
            one answers for are not live.
    """

    def __init__(
        self,
        readiness: Callable[[], Readiness],
        *,
        host: str | None,
        port: int,
        trouble: Callable[[], list[str]] = list,
    ) -> None:
        self._readiness = readiness
        self._trouble = trouble
        self._host = host
        self._port = port
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        """Begin to listen.

        Raises:
            OSError: If it cannot listen, for example because the port is in use.
        """
        pulse = _Pulse(asyncio.get_running_loop(), self._trouble)
        self._server = _listen(self._host, self._port, pulse, self._readiness)
        threading.Thread(target=self._server.serve_forever, args=(_PULSE,), name="jsjobs-health", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        assert self._server is not None
        return int(self._server.server_address[1])


def stalled(seconds: float) -> str:
    """Return the message about an event loop that has not answered for this long."""
    return f"the event loop has not answered for {seconds:.0f} s: does a handler block it?"


class _Pulse:
    """Ask the event loop from another thread whether it still runs; at most one question is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, others: Callable[[], list[str]]) -> None:
        self._loop = loop
        self._others = others
        self._asked_at: float | None = None

    def ask(self) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            with suppress(RuntimeError):  # the loop is closed: it will never answer
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._asked_at = None

    @property
    def trouble(self) -> list[str]:
        asked_at = self._asked_at
        silent = 0.0 if asked_at is None else time.monotonic() - asked_at
        return [*([stalled(silent)] if silent >= LIVE_WITHIN else []), *self._others()]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server with one short-lived thread for each connection, which answers one request."""

    daemon_threads = True
    allow_reuse_address = True  # a restart gets its port again even if old connections linger
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], pulse: _Pulse, readiness: Callable[[], Readiness]
    ) -> None:
        self.address_family = family
        self.pulse = pulse
        self.readiness = readiness
        self._open: dict[Any, float] = {}
        self._guard = threading.Lock()
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def service_actions(self) -> None:
        self.pulse.ask()
        late = time.monotonic() - _REQUEST_WITHIN
        with self._guard:
            self._cut([request for request, since in self._open.items() if since < late])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            # A probe takes milliseconds: the oldest connection is the one that only keeps us busy.
            self._cut(list(self._open)[: max(0, len(self._open) - _MOST_CONNECTIONS + 1)])
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address
        logger.debug("a health request failed", exc_info=True)  # noqa: LOG014 - called while the error is handled

    @staticmethod
    def _cut(requests: list[Any]) -> None:
        for request in requests:
            with suppress(OSError):  # it is already closed
                request.shutdown(socket.SHUT_RDWR)  # its thread then reads the end of the stream, and ends


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_WITHIN
    default_request_version = "HTTP/1.0"  # with 0.9, an answer to garbage has no status

    def setup(self) -> None:
        super().setup()
        self.rfile = _Short(self.rfile)  # type: ignore[assignment]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/live":
            reasons = self.server.pulse.trouble
            self._say(200 if not reasons else 503, "not live" if reasons else "live", reasons)
        elif path == "/ready":
            told = self.server.readiness()
            reasons = [*self.server.pulse.trouble, *told.reasons]
            self._say(200 if not reasons else 503, "not ready" if reasons else "ready", reasons, told.notes)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        del message, explain  # they repeat what the client sent
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._say(status, "error", [status.phrase])

    def _say(self, code: int, status: str, reasons: list[str], notes: list[str] | None = None) -> None:
        told = {"status": status, "reasons": reasons} | ({} if notes is None else {"notes": notes})
        body = json.dumps(told).encode() + b"\n"
        self.send_response(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "jsjobs"

    def log_message(self, *_: Any) -> None:
        """Log nothing: probes come every few seconds."""


class _Short:
    """The lines of a request, up to a limit: a valid header is small."""

    def __init__(self, lines: io.BufferedIOBase) -> None:
        self._lines = lines
        self._left = _MOST_BYTES

    def readline(self, size: int) -> bytes:
        line = self._lines.readline(min(size, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._lines.close()


def _listen(host: str | None, port: int, pulse: _Pulse, readiness: Callable[[], Readiness]) -> _Server:
    if host is not None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except UnicodeError:
            raise OSError(errno.EINVAL, "not the name of a host") from None
        return _Server(family, (str(address[0]), port), pulse, readiness)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # a container may have IPv6 switched off; a port in use is reported below
            return _Server(socket.AF_INET6, ("::", port), pulse, readiness)
    return _Server(socket.AF_INET, ("0.0.0.0", port), pulse, readiness)  # noqa: S104 - a kubelet connects from outside
